//! Training of 1.58-bit (ternary) language models, from text to a file that the engine runs.
//!
//! [`train`] is the whole of it: data and a [`recipe::Recipe`] in, a folder with a packed model, its metrics and a report
//! out. The same recipe, data and seed give the same model, bit for bit, however often the run was killed and resumed.

pub mod data;
pub mod metrics;
pub mod recipe;
pub mod report;
pub mod schedule;

#[cfg(feature = "burn")]
pub mod checkpoint;
#[cfg(feature = "burn")]
mod error;
#[cfg(feature = "burn")]
mod export;
#[cfg(feature = "burn")]
mod finetune;
#[cfg(feature = "burn")]
mod gradients;
#[cfg(feature = "burn")]
mod inspect;
#[cfg(feature = "burn")]
pub mod objective;
#[cfg(feature = "burn")]
pub mod optimizer;
#[cfg(feature = "burn")]
pub mod parameters;
#[cfg(feature = "burn")]
mod run;
#[cfg(feature = "burn")]
pub mod step;
#[cfg(feature = "burn")]
pub mod tokenizer;

pub use bitnet_ternary::Packing;
#[cfg(feature = "burn")]
pub use error::TrainError;
#[cfg(feature = "burn")]
pub use export::{ExportFormat, export};
#[cfg(feature = "burn")]
pub use gradients::GradientSum;
#[cfg(feature = "burn")]
pub use inspect::Inspector;
#[cfg(feature = "burn")]
pub use run::{Event, Facts, Observer, RunFolder, RunOptions, Trained, train};
