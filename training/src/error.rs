//! Why a run ends early.

use std::io;
use std::path::{Path, PathBuf};

use bitnet_engine::EngineError;
use bitnet_format::FormatError;
use bitnet_model::ModelError;
use bitnet_text::{MakeError, TextError};

use crate::data::DataError;
use crate::metrics::MetricsError;
use crate::recipe::RecipeError;
use crate::report::ReportError;

/// Why training, or what comes after it, failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The recipe.
    #[error("{}: {source}", path.display())]
    Recipe {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: RecipeError,
    },
    /// A setting of the recipe that did not come from a file.
    #[error(transparent)]
    Setting(#[from] RecipeError),
    /// A tokenizer could not be made.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// A tokenizer could not be read.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TextError,
    },
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A model file.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Writing a sample.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The files of the metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// There is a run in the folder already.
    #[error("{} holds a run already: continue it with --resume, or replace it with --overwrite", .0.display())]
    Exists(PathBuf),
    /// There is no run in the folder.
    #[error("{} holds no run to resume", .0.display())]
    NothingToResume(PathBuf),
    /// An adapter is floats beside trits.
    #[error("an adapter cannot be merged into trits: run it beside its model with --lora")]
    Unmerged,
    /// Only masters hold what has no trits.
    #[error("the model was trained with --quant none: only hf-master holds its floats")]
    NoTrits,
    /// There is no checkpoint in the folder.
    #[error("{} holds no checkpoint of a run", .0.display())]
    NoCheckpoint(PathBuf),
    /// A checkpoint that is not one.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tokenizer with more tokens than the weights to begin with have rows for.
    #[error("the tokenizer has {tokens} tokens, the embedding of {} {rows} rows", model.display())]
    Vocabulary {
        /// Of the tokenizer.
        tokens: usize,
        /// The file or folder.
        model: PathBuf,
        /// Of the embedding.
        rows: usize,
    },
    /// Devices that cannot train one model together.
    #[error("the devices: {0}")]
    Devices(String),
    /// A device has failed, such as one that another process lends and that is gone.
    #[error("step {step}: device number {number} has failed: {reason}")]
    DeviceLost {
        /// The step, the first being 1.
        step: u64,
        /// Its place in the list of devices, from 1.
        number: usize,
        /// What it said.
        reason: String,
    },
    /// The search for a learning rate was stopped.
    #[error("stopped while learning rates were tried: the same command goes on with those that are left")]
    SweepStopped,
    /// No learning rate can be chosen.
    #[error("numbers are no longer finite at any of the learning rates that were tried")]
    SweepFailed,
    /// The loss, a gradient or a weight is not a finite number.
    #[error(
        "step {step}: numbers are no longer finite, first in {layer}; {}",
        match last_good { Some(path) => format!("the last good checkpoint is {}", path.display()), None => "there is no checkpoint".to_string() }
    )]
    NotFinite {
        /// The step, the first being 1.
        step: u64,
        /// The first layer whose output is not finite, or the first parameter.
        layer: String,
        /// The latest checkpoint before it.
        last_good: Option<PathBuf>,
    },
}

impl TrainError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}
