//! What somebody who watches a run should be told.

use std::collections::VecDeque;
use std::fmt;

use super::progress::short;
use super::record::StepRecord;

/// When to speak up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// A gradient norm this many times the usual one has exploded.
    pub grad_norm_ratio: f64,
    /// The usual gradient norm is the median of as many records before; fewer than a tenth of them are too few to tell.
    pub grad_norm_window: usize,
    /// A layer with fewer zeros than this has hardly any use for the third value.
    pub least_zero_fraction: f64,
    /// A layer with more zeros than this is dying. Gaussian weights start at 0.31, trained models end at 0.33 to 0.47.
    pub most_zero_fraction: f64,
    /// A mean flip rate below this share of the usual one has collapsed: trits have frozen.
    pub flip_rate_ratio: f64,
    /// A flip rate falls with the learning rate, as it should; below this share of the highest rate seen it is not looked at.
    pub flip_rate_learning_rate: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            grad_norm_ratio: 10.0,
            grad_norm_window: 100,
            least_zero_fraction: 0.2,
            most_zero_fraction: 0.7,
            flip_rate_ratio: 0.01,
            flip_rate_learning_rate: 0.1,
        }
    }
}

/// Something is wrong; `Display` says it in one line.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Alert {
    /// The loss is NaN or infinite.
    LossNotFinite {
        /// After which step.
        step: u64,
        /// What the loss is.
        loss: f64,
    },
    /// The gradient norm is NaN, infinite, or many times the usual one.
    GradNormExploded {
        /// At which step.
        step: u64,
        /// What the norm is.
        norm: f64,
        /// The median before; `None` where there were too few steps.
        usual: Option<f64>,
    },
    /// Trits have stopped changing while the learning rate is still high.
    FlipRateCollapsed {
        /// After which step.
        step: u64,
        /// Mean over the layers.
        rate: f64,
        /// The median of those means before.
        usual: f64,
    },
    /// Layers have far too few or far too many zeros.
    ZeroFraction {
        /// After which step.
        step: u64,
        /// How many layers.
        layers: usize,
        /// The one that is farthest off.
        worst: String,
        /// Its share of zeros.
        fraction: f64,
    },
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::LossNotFinite { step, loss } => write!(f, "step {step}: the loss is {loss}"),
            Self::GradNormExploded { step, norm, usual: Some(usual) } => {
                let (times, norm, usual) = (norm / usual, short(*norm), short(*usual));
                write!(f, "step {step}: the gradient norm is {norm}, {times:.0} times the usual {usual}")
            }
            Self::GradNormExploded { step, norm, usual: None } => write!(f, "step {step}: the gradient norm is {norm}"),
            Self::FlipRateCollapsed { step, rate, usual } => {
                write!(f, "step {step}: trits have frozen, {:.4}% flip where {:.3}% did", rate * 100.0, usual * 100.0)
            }
            Self::ZeroFraction { step, layers: 1, worst, fraction } => {
                write!(f, "step {step}: {:.0}% of the trits of {worst} are zero", fraction * 100.0)
            }
            Self::ZeroFraction { step, layers, worst, fraction } => {
                let percent = fraction * 100.0;
                write!(
                    f,
                    "step {step}: {layers} layers have too few or too many zeros, {worst} the most ({percent:.0}%)"
                )
            }
        }
    }
}

/// Looks at the records of a run as they come.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    thresholds: Thresholds,
    grad_norms: VecDeque<f64>,
    flip_rates: Vec<f64>,
    highest_learning_rate: f64,
}

impl Watch {
    /// A watch that has seen nothing yet.
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, ..Self::default() }
    }

    /// What is wrong at a record, in the light of those seen before.
    pub fn see(&mut self, record: &StepRecord) -> Vec<Alert> {
        let mut alerts = Vec::new();
        if !record.train_loss.is_finite() {
            alerts.push(Alert::LossNotFinite { step: record.step, loss: record.train_loss });
        }
        alerts.extend(self.grad_norm(record));
        alerts.extend(self.flip_rate(record));
        alerts.extend(self.zero_fraction(record));
        alerts
    }

    fn grad_norm(&mut self, record: &StepRecord) -> Option<Alert> {
        let (step, norm) = (record.step, record.grad_norm);
        if !norm.is_finite() {
            return Some(Alert::GradNormExploded { step, norm, usual: None });
        }
        let window = self.thresholds.grad_norm_window;
        let enough = self.grad_norms.len() >= window.div_ceil(10);
        let usual = median(self.grad_norms.iter().copied()).filter(|_| enough);
        self.grad_norms.push_back(norm);
        if self.grad_norms.len() > window {
            self.grad_norms.pop_front();
        }
        let too_much = norm > usual? * self.thresholds.grad_norm_ratio;
        too_much.then_some(Alert::GradNormExploded { step, norm, usual })
    }

    fn flip_rate(&mut self, record: &StepRecord) -> Option<Alert> {
        self.highest_learning_rate = self.highest_learning_rate.max(record.learning_rate);
        let rate = record.layer_mean(|layer| layer.flip_rate)?;
        let usual = median(self.flip_rates.iter().copied());
        self.flip_rates.push(rate);
        let usual = usual?;
        let cooling = record.learning_rate < self.highest_learning_rate * self.thresholds.flip_rate_learning_rate;
        let frozen = !cooling && rate < usual * self.thresholds.flip_rate_ratio;
        frozen.then_some(Alert::FlipRateCollapsed { step: record.step, rate, usual })
    }

    fn zero_fraction(&self, record: &StepRecord) -> Option<Alert> {
        let range = self.thresholds.least_zero_fraction..=self.thresholds.most_zero_fraction;
        let off = |fraction: f64| (range.start() - fraction).max(fraction - range.end());
        let outside = record.layers.iter().flatten().filter(|layer| !range.contains(&layer.zero_fraction));
        let worst = outside.clone().max_by(|a, b| off(a.zero_fraction).total_cmp(&off(b.zero_fraction)))?;
        Some(Alert::ZeroFraction {
            step: record.step,
            layers: outside.count(),
            worst: worst.name.clone(),
            fraction: worst.zero_fraction,
        })
    }
}

/// Of those that are finite.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f64::total_cmp).1)
}
