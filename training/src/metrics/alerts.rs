//! What somebody who watches a run should be told.

use std::fmt;

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
                write!(f, "step {step}: the gradient norm is {norm:.3}, {:.0} times the usual {usual:.3}", norm / usual)
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

/// What is wrong at the last of `records`, in the light of those before it.
pub fn alerts(records: &[StepRecord], thresholds: &Thresholds) -> Vec<Alert> {
    let Some((last, before)) = records.split_last() else { return Vec::new() };
    let mut alerts = Vec::new();
    if !last.train_loss.is_finite() {
        alerts.push(Alert::LossNotFinite { step: last.step, loss: last.train_loss });
    }
    alerts.extend(grad_norm(last, before, thresholds));
    alerts.extend(flip_rate(last, before, thresholds));
    alerts.extend(zero_fraction(last, thresholds));
    alerts
}

fn grad_norm(last: &StepRecord, before: &[StepRecord], thresholds: &Thresholds) -> Option<Alert> {
    let (step, norm) = (last.step, last.grad_norm);
    if !norm.is_finite() {
        return Some(Alert::GradNormExploded { step, norm, usual: None });
    }
    let window = thresholds.grad_norm_window;
    let recent = &before[before.len().saturating_sub(window)..];
    if recent.len() < window.div_ceil(10) {
        return None;
    }
    let usual = median(recent.iter().map(|record| record.grad_norm))?;
    (norm > usual * thresholds.grad_norm_ratio).then_some(Alert::GradNormExploded { step, norm, usual: Some(usual) })
}

fn flip_rate(last: &StepRecord, before: &[StepRecord], thresholds: &Thresholds) -> Option<Alert> {
    let rate = last.layer_mean(|layer| layer.flip_rate)?;
    let highest = before.iter().map(|record| record.learning_rate).fold(0.0, f64::max);
    if last.learning_rate < highest * thresholds.flip_rate_learning_rate {
        return None;
    }
    let usual = median(before.iter().filter_map(|record| record.layer_mean(|layer| layer.flip_rate)))?;
    (rate < usual * thresholds.flip_rate_ratio).then_some(Alert::FlipRateCollapsed { step: last.step, rate, usual })
}

fn zero_fraction(last: &StepRecord, thresholds: &Thresholds) -> Option<Alert> {
    let range = thresholds.least_zero_fraction..=thresholds.most_zero_fraction;
    let off = |fraction: f64| (range.start() - fraction).max(fraction - range.end());
    let outside = last.layers.iter().flatten().filter(|layer| !range.contains(&layer.zero_fraction));
    let worst = outside.clone().max_by(|a, b| off(a.zero_fraction).total_cmp(&off(b.zero_fraction)))?;
    Some(Alert::ZeroFraction {
        step: last.step,
        layers: outside.count(),
        worst: worst.name.clone(),
        fraction: worst.zero_fraction,
    })
}

/// Of those that are finite.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f64::total_cmp).1)
}
