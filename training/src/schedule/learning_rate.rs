//! Learning-rate schedules.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::spelling::{Spelling, magnitude, serde_as_spelled};
use super::{Progress, ScheduleError, Span};

/// A learning rate: a linear warm-up to `peak`, then whatever `schedule` makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearningRate {
    /// The highest rate.
    #[serde(deserialize_with = "magnitude")]
    pub peak: f64,
    /// How long the rate takes to get there. Step `s` of `n`, counted from 0, has `(s + 1) / n` of the rate, so that no
    /// step is wasted on a rate of 0.
    #[serde(default)]
    pub warmup: Span,
    /// What comes then.
    #[serde(default)]
    pub schedule: LearningRateSchedule,
}

impl LearningRate {
    /// The rate of the step that begins at `progress`.
    pub fn at(&self, progress: Progress) -> f64 {
        self.peak * self.factor(progress)
    }

    /// The rate as a share of `peak`, 0 to 1: for parameter groups that have peaks of their own.
    pub fn factor(&self, progress: Progress) -> f64 {
        progress.of_span_with_this_step(self.warmup) * self.schedule.factor(progress, self.warmup)
    }
}

/// What a learning rate does after its warm-up.
///
/// In the formulas `p` is the share of the whole run, and `d` that of the run after the warm-up, that is behind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LearningRateSchedule {
    /// That of BitNet b1.58 (Ma et al., *The Era of 1-bit LLMs: Training Tips, Code and FAQ*, 2024): one straight line from
    /// the peak to 0, and from `switch` on the line of a peak that is `drop` times as high,
    /// `(1 - d) · (p < switch ? 1 : drop)`.
    TwoStage {
        /// Share of the run after which the peak falls.
        switch: f64,
        /// What is left of the peak.
        drop: f64,
    },
    /// Warm-up, stable, decay: the peak until the last `decay` of the run, then down to `floor`,
    /// `floor + (1 - floor) · shape((p - 1 + decay) / decay)`.
    Wsd {
        /// Share of the run in which the rate falls.
        decay: f64,
        /// How it falls.
        shape: DecayShape,
        /// Where it ends, as a share of the peak.
        floor: f64,
    },
    /// Half a cosine wave down to `floor`, `floor + (1 - floor) · (1 + cos πd) / 2`.
    Cosine {
        /// Where it ends, as a share of the peak.
        floor: f64,
    },
    /// The peak to the end.
    Constant,
}

/// How the rate falls in the last part of [`Wsd`](LearningRateSchedule::Wsd).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DecayShape {
    /// `1 - x`.
    #[default]
    Linear,
    /// `1 - √x` (Hägele et al., *Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations*, 2024).
    OneMinusSqrt,
}

impl Default for LearningRateSchedule {
    /// The two stages of BitNet b1.58.
    fn default() -> Self {
        Self::TwoStage { switch: 0.5, drop: 2.0 / 3.0 }
    }
}

impl LearningRateSchedule {
    fn factor(self, progress: Progress, warmup: Span) -> f64 {
        match self {
            Self::TwoStage { switch, drop } => {
                let peak = if progress.fraction() < switch { 1.0 } else { drop };
                peak * (1.0 - progress.after(warmup))
            }
            Self::Wsd { decay, shape, floor } => {
                let begun = progress.fraction() - (1.0 - decay);
                if begun <= 0.0 {
                    return 1.0;
                }
                let begun = (begun / decay).min(1.0);
                let left = match shape {
                    DecayShape::Linear => 1.0 - begun,
                    DecayShape::OneMinusSqrt => 1.0 - begun.sqrt(),
                };
                floor + (1.0 - floor) * left
            }
            Self::Cosine { floor } => floor + (1.0 - floor) * 0.5 * (1.0 + (PI * progress.after(warmup)).cos()),
            Self::Constant => 1.0,
        }
    }
}

impl fmt::Display for LearningRateSchedule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::TwoStage { switch, drop } => write!(f, "two-stage:switch={switch},drop={drop}"),
            Self::Wsd { decay, shape, floor } => write!(f, "wsd:decay={decay},shape={shape},floor={floor}"),
            Self::Cosine { floor } => write!(f, "cosine:floor={floor}"),
            Self::Constant => write!(f, "constant"),
        }
    }
}

impl FromStr for LearningRateSchedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut spelling = Spelling::of(text)?;
        let schedule = match spelling.name {
            "two-stage" => {
                Self::TwoStage { switch: spelling.share("switch", 0.5)?, drop: spelling.share("drop", 2.0 / 3.0)? }
            }
            "wsd" => {
                let shape = spelling.option("shape").map(str::parse).transpose();
                Self::Wsd {
                    decay: spelling.share("decay", 0.2)?,
                    shape: shape
                        .map_err(|error: ScheduleError| spelling.refuse(error.to_string()))?
                        .unwrap_or_default(),
                    floor: spelling.share("floor", 0.0)?,
                }
            }
            "cosine" => Self::Cosine { floor: spelling.share("floor", 0.1)? },
            "constant" => Self::Constant,
            _ => return Err(spelling.unknown("two-stage, wsd, cosine and constant")),
        };
        spelling.finish(schedule)
    }
}

serde_as_spelled!(LearningRateSchedule);

impl fmt::Display for DecayShape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::OneMinusSqrt => "1-sqrt",
        })
    }
}

impl FromStr for DecayShape {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "linear" => Ok(Self::Linear),
            "1-sqrt" => Ok(Self::OneMinusSqrt),
            _ => Err(ScheduleError::new(text, "a decay falls `linear` or as `1-sqrt`")),
        }
    }
}
