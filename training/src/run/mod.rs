//! A training run: from data and a recipe to a folder with a model that runs.
//!
//! ```text
//! DIR/recipe.toml  tokenizer/  cache/  checkpoints/  metrics.csv  metrics.jsonl  tensorboard/  report.html
//! DIR/model.gguf  hf/, or adapter/ where only an adapter was trained
//! ```

mod batches;
mod event;
mod first;
mod folder;
mod formats;
mod replicas;
mod sweep;
mod trained;
mod trainer;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;

use crate::TrainError;
use crate::data::Source;
use crate::metrics::Outcome;
use crate::recipe::Recipe;

pub use event::{Event, Facts, Observer};
pub use folder::RunFolder;
pub use sweep::{Tried, sweep_learning_rate};
pub use trained::Trained;

/// What a run is.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// What is trained on.
    pub source: Source,
    /// What is validated on, if it is not to be held out of the source.
    pub validation: Option<Source>,
    /// One document in so many is held out.
    pub one_in: u64,
    /// Folder of the run.
    pub out: PathBuf,
    /// How.
    pub recipe: Recipe,
    /// Where, without gradients.
    pub device: Device,
    /// Devices that take a share of each step off that one: see [many devices](crate#many-devices).
    pub more_devices: Vec<Device>,
    /// Go on from the latest checkpoint in the folder.
    pub resume: bool,
    /// Replace a run that is in the folder.
    pub overwrite: bool,
    /// The command line, for the report.
    pub command: String,
}

/// Trains a model, and leaves it in the folder of the run, packed. `stop` ends the run after the step that is under way,
/// as if it were the last: with a checkpoint, a measurement and files that run.
///
/// # Errors
/// Before the first step: when the data, the recipe or the folder is not what it should be. After it: when the loss is no
/// number, or the disk is full. The checkpoints that were there are kept.
pub fn train(options: &RunOptions, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome, TrainError> {
    options.recipe.check()?;
    trainer::Trainer::new(options, observer)?.run(observer, stop)
}
