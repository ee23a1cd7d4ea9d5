//! What a run tells those who watch it.

use std::path::Path;

use bitnet_text::MakeProgress;

use super::Tried;
use crate::data::{Origin, Progress};
use crate::metrics::{Alert, Limits, StepRecord};

/// What is known before the first step.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Numbers that are trained.
    pub parameters: u64,
    /// Those of them that become trits.
    pub ternary: u64,
    /// Tokens to train on, and held out.
    pub tokens: [u64; 2],
    /// Vocabulary.
    pub vocab_size: usize,
    /// Targets in a step.
    pub tokens_per_step: u64,
    /// Where the run ends.
    pub limits: Limits,
    /// Steps that were taken before, where it is resumed.
    pub resumed_from: Option<u64>,
}

/// Something happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A tokenizer is being made.
    Tokenizer(MakeProgress),
    /// The data is being prepared.
    Data(Progress),
    /// The data is there.
    DataReady(&'a Origin),
    /// A learning rate was tried.
    Tried(&'a Tried),
    /// The first step is about to begin.
    Begin(&'a Facts),
    /// Some of the documents are longer than the context, and cut off there.
    CutOff {
        /// Those that are.
        documents: usize,
        /// All.
        of: usize,
    },
    /// A step was taken.
    Step(&'a StepRecord),
    /// Something looks wrong.
    Alert(&'a Alert),
    /// A checkpoint was written.
    Checkpoint(&'a Path),
    /// The model is being written to this file or folder.
    Export(&'a Path),
}

/// Watches a run.
pub trait Observer {
    /// Something happened.
    fn event(&mut self, event: Event<'_>);

    /// The run is over: what it wrote is there.
    fn finish(&mut self) {}
}

/// Watches nothing.
impl Observer for () {
    fn event(&mut self, _: Event<'_>) {}
}
