//! How quantization is phased in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::spelling::{Spelling, serde_as_spelled};
use super::{Progress, ScheduleError, Span};

/// The share λ of quantization in the forward pass, `x + λ (q(x) - x)`: 0 is the float twin, 1 is quantized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LambdaSchedule {
    /// Quantized from the first step: `one`.
    #[default]
    One,
    /// From 0 to 1 in a straight line, for converting a float model: `linear:over=1000`. A sudden or stepwise switch loses
    /// what the model knew (*Fine-tuning LLMs to 1.58bit*, Hugging Face, 2024, where 1000 steps were enough).
    Linear {
        /// How long it takes.
        over: Span,
    },
}

impl LambdaSchedule {
    /// λ of the step that begins at `progress`, 0 to 1.
    pub fn at(self, progress: Progress) -> f64 {
        match self {
            Self::One => 1.0,
            Self::Linear { over } => progress.of_span(over),
        }
    }
}

impl fmt::Display for LambdaSchedule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::One => write!(f, "one"),
            Self::Linear { over } => write!(f, "linear:over={over}"),
        }
    }
}

impl FromStr for LambdaSchedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut spelling = Spelling::of(text)?;
        let schedule = match spelling.name {
            "one" => Self::One,
            "linear" => {
                let over = spelling.option("over").map(str::parse).transpose();
                let over = over.map_err(|error: ScheduleError| spelling.refuse(error.to_string()))?;
                Self::Linear { over: over.unwrap_or(Span::Steps(1000)) }
            }
            _ => return Err(spelling.unknown("one and linear")),
        };
        spelling.finish(schedule)
    }
}

serde_as_spelled!(LambdaSchedule);
