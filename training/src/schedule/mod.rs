//! What changes while a model trains: learning rate, weight decay, and λ, the share of quantization.
//!
//! All are pure functions of [`Progress`], so a run that is resumed at any step goes on with the very same numbers. Each
//! has one spelling, `name` or `name:key=value,key=value`, for the command line and for recipe files alike:
//!
//! ```
//! use bitnet_training::schedule::{LearningRate, LearningRateSchedule, Progress, Span};
//!
//! let schedule: LearningRateSchedule = "wsd:decay=0.25".parse()?;
//! let rate = LearningRate { peak: 1e-3, warmup: Span::Steps(100), schedule };
//! assert_eq!(rate.at(Progress::of_steps(0, 1000)), 1e-5);
//! assert_eq!(rate.at(Progress::of_steps(500, 1000)), 1e-3);
//! # Ok::<(), bitnet_training::schedule::ScheduleError>(())
//! ```

mod lambda;
mod learning_rate;
mod progress;
mod spelling;
mod weight_decay;

pub use lambda::LambdaSchedule;
pub use learning_rate::{DecayShape, LearningRate, LearningRateSchedule};
pub use progress::{Progress, Span};
pub use weight_decay::{WeightDecay, WeightDecaySchedule};

/// Why a schedule cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}`: {reason}")]
pub struct ScheduleError {
    /// What was to be a schedule, a span or a number.
    pub text: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

impl ScheduleError {
    fn new(text: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { text: text.into(), reason: reason.into() }
    }
}
