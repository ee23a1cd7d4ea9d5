//! How far a run has come, by steps or by the clock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ScheduleError;

/// Where a run stands before an optimizer step is taken.
///
/// A run that ends after a number of steps and one that ends after a number of seconds differ only in the way this is
/// made; where both limits hold, the [`later`](Self::later) of the two decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    step: u64,
    fraction: f64,
    stride: f64,
}

impl Progress {
    /// Step `step`, counted from 0, of `total`.
    pub fn of_steps(step: u64, total: u64) -> Self {
        let total = total.max(1) as f64;
        Self { step, fraction: (step as f64 / total).min(1.0), stride: 1.0 / total }
    }

    /// Step `step`, counted from 0, begun `elapsed` seconds into a run of `limit` seconds.
    ///
    /// A step is taken to last as long as those before it did on average; before the first one, no time at all.
    pub fn of_time(step: u64, elapsed: f64, limit: f64) -> Self {
        // A limit of 0 or less, or one that is no number, is a run that is over.
        let fraction = if limit > 0.0 { (elapsed / limit).clamp(0.0, 1.0) } else { 1.0 };
        let stride = if step == 0 { 0.0 } else { fraction / step as f64 };
        Self { step, fraction, stride }
    }

    /// Whichever of the two is nearer the end.
    pub fn later(self, other: Self) -> Self {
        if other.fraction > self.fraction { other } else { self }
    }

    /// Optimizer steps taken so far.
    pub fn step(self) -> u64 {
        self.step
    }

    /// Share of the run that is behind, 0 to 1.
    pub fn fraction(self) -> f64 {
        self.fraction
    }

    /// Share of `span` that is behind, 0 to 1, from the start of the run; of an empty span, all of it.
    pub(super) fn of_span(self, span: Span) -> f64 {
        ratio(match span {
            Span::Steps(steps) => self.step as f64 / steps as f64,
            Span::Share(share) => self.fraction / share,
        })
    }

    /// As [`of_span`](Self::of_span), once the step that begins now is taken.
    pub(super) fn of_span_with_this_step(self, span: Span) -> f64 {
        ratio(match span {
            Span::Steps(steps) => (self.step as f64 + 1.0) / steps as f64,
            Span::Share(share) => (self.fraction + self.stride) / share,
        })
    }

    /// Share of what comes after `span`, to the end of the run, that is behind, 0 to 1.
    pub(super) fn after(self, span: Span) -> f64 {
        let end = match span {
            Span::Steps(steps) => steps as f64 * self.stride,
            Span::Share(share) => share,
        };
        if end >= 1.0 { 0.0 } else { ((self.fraction - end) / (1.0 - end)).clamp(0.0, 1.0) }
    }
}

/// Not above 1; 1 for 0/0, which is where an empty span begins.
fn ratio(of: f64) -> f64 {
    if of < 1.0 { of } else { 1.0 }
}

/// A stretch at the start of a run: `375` (steps) or `2%` (of the run).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Spelled", into = "Spelled")]
pub enum Span {
    /// So many optimizer steps.
    Steps(u64),
    /// A share of the run, 0 to 1.
    Share(f64),
}

impl Default for Span {
    /// No stretch at all.
    fn default() -> Self {
        Self::Steps(0)
    }
}

/// In a recipe a number of steps may stand without quotes.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a number of steps, such as 375, or a share of the run, such as \"2%\"")]
enum Spelled {
    Steps(u64),
    Text(String),
}

impl TryFrom<Spelled> for Span {
    type Error = ScheduleError;

    fn try_from(spelled: Spelled) -> Result<Self, Self::Error> {
        match spelled {
            Spelled::Steps(steps) => Ok(Self::Steps(steps)),
            Spelled::Text(text) => text.parse(),
        }
    }
}

impl From<Span> for Spelled {
    fn from(span: Span) -> Self {
        match span {
            Span::Steps(steps) => Self::Steps(steps),
            Span::Share(_) => Self::Text(span.to_string()),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "{steps}"),
            // Rounded, or 7% would read 7.000000000000001%.
            Self::Share(share) => write!(f, "{}%", (share * 1e14).round() / 1e12),
        }
    }
}

impl FromStr for Span {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ScheduleError::new(text, "a number of steps, such as 375, or 0% to 100% of the run is needed");
        match text.strip_suffix('%') {
            None => text.parse().map(Self::Steps).map_err(|_| refuse()),
            Some(percent) => {
                let percent: f64 = percent.parse().map_err(|_| refuse())?;
                if (0.0..=100.0).contains(&percent) { Ok(Self::Share(percent / 100.0)) } else { Err(refuse()) }
            }
        }
    }
}
