//! What a run comes to in the end.

use std::path::PathBuf;

use serde::Serialize;

/// The figures of a finished run, for the last line on stdout and for the report.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Optimizer steps taken.
    pub steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Mean cross-entropy of the last step, in nats a token.
    pub train_loss: f64,
    /// The last measurement on held-out data, in nats a token; `None` where there was none.
    pub valid_loss: Option<f64>,
    /// The same in bits a byte.
    pub bits_per_byte: Option<f64>,
    /// Where replies were compared: share of the held-out pairs whose better reply has gained more likelihood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preference_accuracy: Option<f64>,
    /// Over the whole run.
    pub tokens_per_second: f64,
    /// Seconds of training, those before a resume included.
    pub seconds: f64,
    /// Trained numbers.
    pub parameters: u64,
    /// The packed file that can be run.
    pub model: PathBuf,
}

/// The outcome as one line of JSON, without its end. A figure that is no number is `null`.
///
/// # Errors
///
/// When the path of the model is not UTF-8, which JSON has to be.
pub fn final_line(outcome: &Outcome) -> serde_json::Result<String> {
    serde_json::to_string(outcome)
}
