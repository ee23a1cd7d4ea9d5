//! One line every so many steps, for a log file or a pipe.

use super::record::{StepRecord, Validation};

/// What ends a run: whichever of the two comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Optimizer steps.
    pub steps: Option<u64>,
    /// Seconds of training, on the clock of [`StepRecord::elapsed_seconds`].
    pub seconds: Option<f64>,
}

/// Turns records into aligned lines of the form
///
/// ```text
/// step  500/2000  loss 1.7721  bpb 2.557  lr 1.00e-3  grad 0.53  tok/s  25.1k  eta 0:01:02
/// ```
///
/// `bpb` is that of the last validation, `-` before the first one.
#[derive(Clone, Debug)]
pub struct ProgressLine {
    limits: Limits,
    every: u64,
    held_out: Option<Validation>,
    last: Option<(u64, f64)>,
    pace: Pace,
}

impl ProgressLine {
    /// A line every `every` steps, and one for the first record, each validation and the last step.
    pub fn new(limits: Limits, every: u64) -> Self {
        Self { limits, every: every.max(1), held_out: None, last: None, pace: Pace::default() }
    }

    /// The line of a record, without its end; `None` where none is due. Has to see every record.
    pub fn line(&mut self, record: &StepRecord) -> Option<String> {
        let before = self.last.replace((record.step, record.elapsed_seconds));
        if let Some((step, seconds)) = before {
            self.pace.add(record.step.saturating_sub(step), record.elapsed_seconds - seconds);
        }
        if let Some(valid) = &record.valid {
            self.held_out = Some(*valid);
        }
        let is_last = self.limits.steps == Some(record.step);
        let due = record.step.is_multiple_of(self.every) || record.valid.is_some() || is_last || before.is_none();
        due.then(|| self.spell(record))
    }

    fn spell(&self, record: &StepRecord) -> String {
        let step = match self.limits.steps {
            Some(total) => format!("{:>width$}/{total}", record.step, width = total.to_string().len()),
            None => format!("{:>6}", record.step),
        };
        let held_out = match self.held_out {
            Some(Validation { accuracy: Some(accuracy), .. }) => format!("pairs {:>5.1}%", 100.0 * accuracy),
            Some(valid) => format!("bpb {:>6}", format!("{:.3}", valid.bits_per_byte)),
            None => format!("bpb {:>6}", "-"),
        };
        format!(
            "step {step}  loss {:7.4}  {held_out}  lr {:>8}  grad {:>8}  tok/s {:>6}  eta {}",
            record.train_loss,
            format!("{:.2e}", record.learning_rate),
            short(record.grad_norm),
            short_count(record.tokens_per_second),
            self.left(record).map_or("-".to_string(), clock),
        )
    }

    /// Seconds to the end.
    fn left(&self, record: &StepRecord) -> Option<f64> {
        let steps = self.limits.steps.map(|total| total.saturating_sub(record.step) as f64);
        let by_steps = steps.zip(self.pace.seconds_per_step()).map(|(steps, pace)| steps * pace);
        let by_time = self.limits.seconds.map(|limit| (limit - record.elapsed_seconds).max(0.0));
        by_steps.into_iter().chain(by_time).reduce(f64::min)
    }
}

/// Seconds a step, smoothed over the last [`Pace::MEMORY`] steps or so.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    seconds: f64,
    steps: f64,
}

impl Pace {
    const MEMORY: f64 = 50.0;

    fn add(&mut self, steps: u64, seconds: f64) {
        // Both sums fade alike, so their quotient is a mean from the first step on.
        let faded = (-(steps as f64) / Self::MEMORY).exp();
        if steps > 0 && seconds >= 0.0 {
            self.seconds = self.seconds * faded + seconds;
            self.steps = self.steps * faded + steps as f64;
        }
    }

    fn seconds_per_step(self) -> Option<f64> {
        (self.steps > 0.0).then(|| self.seconds / self.steps)
    }
}

/// A norm in at most eight characters.
pub fn short(norm: f64) -> String {
    if norm == 0.0 || (1e-2..1e4).contains(&norm) { format!("{norm:.3}") } else { format!("{norm:.2e}") }
}

/// 25130 as 25.1k.
fn short_count(count: f64) -> String {
    match count {
        _ if count < 1e3 => format!("{count:.0}"),
        _ if count < 1e6 => format!("{:.1}k", count / 1e3),
        _ => format!("{:.2}M", count / 1e6),
    }
}

/// Hours, minutes and seconds.
fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
