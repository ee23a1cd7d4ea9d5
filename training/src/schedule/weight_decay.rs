//! Weight-decay schedules.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::spelling::{Spelling, magnitude, serde_as_spelled};
use super::{Progress, ScheduleError};

/// A weight decay and what becomes of it. There is no warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightDecay {
    /// The decay that the run begins with; the optimizer multiplies it by the learning rate.
    #[serde(deserialize_with = "magnitude")]
    pub value: f64,
    /// What becomes of it.
    #[serde(default)]
    pub schedule: WeightDecaySchedule,
}

impl WeightDecay {
    /// The decay of the step that begins at `progress`.
    pub fn at(&self, progress: Progress) -> f64 {
        self.value * self.schedule.factor(progress)
    }
}

/// What becomes of a weight decay over the run, of which the share `p` is behind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WeightDecaySchedule {
    /// Nothing.
    Constant,
    /// All of it until `switch`, none from there on. Latent weights near a rounding threshold keep flipping as long as they
    /// are pulled towards 0, so BitNet b1.58 lets them settle in the second half; Spectra (2024) in the last third.
    TwoStage {
        /// Share of the run after which there is no decay.
        switch: f64,
    },
    /// Half a cosine wave down to 0, `(1 + cos πp) / 2`.
    Cosine,
}

impl Default for WeightDecaySchedule {
    /// The two stages of BitNet b1.58.
    fn default() -> Self {
        Self::TwoStage { switch: 0.5 }
    }
}

impl WeightDecaySchedule {
    fn factor(self, progress: Progress) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::TwoStage { switch } => f64::from(u8::from(progress.fraction() < switch)),
            Self::Cosine => 0.5 * (1.0 + (PI * progress.fraction()).cos()),
        }
    }
}

impl fmt::Display for WeightDecaySchedule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Constant => write!(f, "constant"),
            Self::TwoStage { switch } => write!(f, "two-stage:switch={switch}"),
            Self::Cosine => write!(f, "cosine"),
        }
    }
}

impl FromStr for WeightDecaySchedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut spelling = Spelling::of(text)?;
        let schedule = match spelling.name {
            "constant" => Self::Constant,
            "two-stage" => Self::TwoStage { switch: spelling.share("switch", 0.5)? },
            "cosine" => Self::Cosine,
            _ => return Err(spelling.unknown("constant, two-stage and cosine")),
        };
        spelling.finish(schedule)
    }
}

serde_as_spelled!(WeightDecaySchedule);
