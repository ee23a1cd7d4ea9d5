//! Tokenized documents, in memory as they are on disk.

use std::{ops::Range, sync::Arc};

use super::{Batch, cache::Cache};

/// The tokens of a split. Cheap to clone: clones share one mapped file.
#[derive(Clone, Debug)]
pub struct Corpus(Arc<Cache>);

impl Corpus {
    pub(crate) fn new(cache: Cache) -> Self {
        Self(Arc::new(cache))
    }

    /// Number of documents.
    pub fn documents(&self) -> usize {
        self.0.documents()
    }

    /// Number of tokens.
    pub fn tokens(&self) -> u64 {
        self.0.header.tokens
    }

    /// Number of targets: tokens that are not the first of their document.
    pub fn targets(&self) -> u64 {
        self.tokens() - self.documents() as u64
    }

    /// Number of targets that count in the loss.
    pub fn loss_targets(&self) -> u64 {
        self.0.header.loss_targets
    }

    /// UTF-8 bytes of what is learned: the texts, and what the assistant says in conversations.
    pub fn bytes(&self) -> u64 {
        self.0.header.bytes
    }

    /// Tokens of document `i`, counted from the beginning of the corpus.
    ///
    /// # Panics
    /// When there are not that many documents.
    pub fn document(&self, i: usize) -> Range<u64> {
        let start = if i == 0 { 0 } else { self.0.end(i - 1) };
        start..self.0.end(i)
    }

    /// UTF-8 bytes of what is learned of document `i`.
    ///
    /// # Panics
    /// When there are not that many documents.
    pub fn document_bytes(&self, i: usize) -> u64 {
        self.0.bytes(i)
    }

    /// Some tokens of the corpus, and whether each counts in the loss when it is a target.
    ///
    /// # Panics
    /// When there are not that many tokens.
    pub fn read(&self, tokens: Range<u64>) -> (Vec<u32>, Vec<bool>) {
        let (mut ids, mut loss) = (Vec::new(), Vec::new());
        self.0.push_tokens(tokens.clone(), &mut ids);
        self.0.push_loss(tokens, &mut loss);
        (ids, loss)
    }

    /// Bits per byte of text, from the mean loss in nats over the targets that count:
    /// `nats * loss_targets / (bytes * ln 2)`. It compares models with different vocabularies. The bytes are those of
    /// whole documents; the first token of each, which is not predicted, costs nothing here.
    pub fn bits_per_byte(&self, nats: f64) -> f64 {
        nats * self.loss_targets() as f64 / (self.bytes() as f64 * std::f64::consts::LN_2)
    }

    /// Appends targets to a batch, counted from the first of the corpus, in one segment a document.
    pub(crate) fn push_targets(&self, targets: Range<u64>, batch: &mut Batch) {
        let mut next = targets.start;
        let mut document = self.document_of(next);
        while next < targets.end {
            let tokens = self.document(document);
            // Targets before token `t` of document `d`: `t` tokens without the first ones of documents 0 to `d`.
            let skipped = document as u64 + 1;
            let stop = targets.end.min(tokens.end - skipped);
            if stop > next {
                let range = next + skipped..stop + skipped;
                self.0.push_tokens(range.start - 1..range.end - 1, &mut batch.inputs);
                self.0.push_tokens(range.clone(), &mut batch.targets);
                self.0.push_loss(range, &mut batch.loss);
                batch.segments.push((stop - next) as usize);
                next = stop;
            }
            document += 1;
        }
    }

    /// Targets of document `i`: its tokens without the first.
    pub(crate) fn targets_of(&self, i: usize) -> u64 {
        let tokens = self.document(i);
        tokens.end - tokens.start - 1
    }

    /// Appends the first `at_most` targets of a document to a batch, in one segment.
    pub(crate) fn push_document(&self, i: usize, at_most: u64, batch: &mut Batch) {
        let start = self.document(i).start + 1;
        let end = start + self.targets_of(i).min(at_most);
        if end > start {
            self.0.push_tokens(start - 1..end - 1, &mut batch.inputs);
            self.0.push_tokens(start..end, &mut batch.targets);
            self.0.push_loss(start..end, &mut batch.loss);
            batch.segments.push((end - start) as usize);
        }
    }

    /// The document that a target is in.
    fn document_of(&self, target: u64) -> usize {
        // Targets up to the end of document `i`: its tokens, less one a document.
        let (mut low, mut high) = (0, self.documents());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.0.end(middle) - (middle as u64 + 1) <= target { low = middle + 1 } else { high = middle }
        }
        low
    }
}
