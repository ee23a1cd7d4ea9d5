//! Tokens that are trained on together.

/// Rows of tokens, one after the other. All lists but `segments` have one entry a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The token that stands before each target.
    pub inputs: Vec<u32>,
    /// The tokens to be predicted.
    pub targets: Vec<u32>,
    /// Whether a target counts in the loss. All do, but for conversations.
    pub loss: Vec<bool>,
    /// Lengths of the independent sequences, in order; they add up to the number of targets. Each is a stretch of one
    /// document: positions begin at 0 in it, and nothing in it attends to anything outside.
    pub segments: Vec<usize>,
}

impl Batch {
    /// Number of targets.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there are no targets.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Number of targets that count in the loss. A batch of conversations may have none.
    pub fn loss_targets(&self) -> usize {
        self.loss.iter().filter(|&&counts| counts).count()
    }
}
