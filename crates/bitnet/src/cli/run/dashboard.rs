//! The live dashboard of a run: that of burn-train, fed with our events.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use bitnet::training::metrics::{Limits, ProgressLine, StepRecord};
use bitnet::training::{Event, Facts, Observer};
use burn::train::Interrupter;
use burn::train::logger::TrainingProgressLogger;
use burn::train::metric::{
    MetricAttributes, MetricDefinition, MetricEntry, MetricId, NumericAttributes, NumericEntry, SerializedEntry,
};
use burn::train::renderer::tui::TuiMetricsRendererWrapper;
use burn::train::renderer::{MetricState, MetricsRenderer, MetricsRendererTraining};

use super::signals::Signals;
use super::terminal::keep_signals;
use super::watch::{Lines, facts_line};
use crate::cli::note::{note, spelled_out};

const LOSS: &str = "Loss";
const BITS_PER_BYTE: &str = "Bits per byte";
const SPEED: &str = "Tokens per second";
const LEARNING_RATE: &str = "Learning rate";
const GRADIENT_NORM: &str = "Gradient norm";
const ZEROS: &str = "Zeros";
const FLIPS: &str = "Flips";

/// The curves, in the order of the dashboard.
const CURVES: [&str; 7] = [LOSS, BITS_PER_BYTE, SPEED, LEARNING_RATE, GRADIENT_NORM, ZEROS, FLIPS];

/// The longest piece of a sample that is shown, in characters.
const SAMPLE: usize = 300;

/// Lines before the first step, then the dashboard until the run is over. What a user should know later is said once the
/// terminal is as it was: what the run is, warnings, and the last line of figures.
pub struct Dashboard {
    before: Lines,
    screen: Option<Screen>,
    signals: Signals,
    title: String,
    said: Vec<String>,
    last_line: Option<String>,
}

impl Dashboard {
    /// For a run to the folder `out`, with `before` until its first step.
    pub fn new(before: Lines, out: &Path, signals: Signals) -> Self {
        let title = spelled_out(&out.display().to_string());
        Self { before, screen: None, signals, title, said: Vec::new(), last_line: None }
    }

    fn begin(&mut self, facts: &Facts) {
        self.said.push(facts_line(facts));
        if let Some(step) = facts.resumed_from {
            self.said.push(format!("resumed after step {step}"));
        }
        self.signals.on_screen.store(true, Ordering::Relaxed);
        self.screen = Some(Screen::new(facts, &self.title));
    }

    fn step(&mut self, record: &StepRecord) {
        let Some(screen) = &mut self.screen else { return };
        // The renderer panics when its user has chosen to end the process at once, and has given the terminal back.
        if catch_unwind(AssertUnwindSafe(|| screen.show(record))).is_err() {
            // Its own farewell stands on the next line.
            eprintln!();
            note("killed; --resume goes on from the latest checkpoint");
            exit(130);
        }
        if let Some(line) = screen.line.line(record) {
            self.last_line = Some(line);
        }
        if screen.interrupter.should_stop() {
            self.signals.stop.store(true, Ordering::Relaxed);
        }
        if self.signals.stop.load(Ordering::Relaxed) {
            screen.title("stopping");
        }
        keep_signals();
    }

    /// Something that is shown now and said later.
    fn say(&mut self, what: String) {
        if let Some(screen) = &mut self.screen {
            screen.title(&spelled_out(&what));
        }
        self.said.push(what);
    }

    /// Gives the terminal back.
    fn close(&mut self) {
        self.screen = None;
        self.signals.on_screen.store(false, Ordering::Relaxed);
        self.said.drain(..).chain(self.last_line.take()).for_each(note);
    }
}

impl Observer for Dashboard {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Begin(facts) => self.begin(facts),
            Event::Step(record) => self.step(record),
            Event::Alert(alert) => self.say(format!("warning: {alert}")),
            Event::Checkpoint(_) => {
                if let Some(screen) = &mut self.screen {
                    screen.renderer.log_event_training("Checkpoints".to_string());
                }
            }
            Event::Export(path) => {
                self.said.extend(self.last_line.take());
                self.say(format!("writing {}", path.display()));
            }
            other => self.before.event(other),
        }
    }

    fn finish(&mut self) {
        self.close();
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.close();
    }
}

/// What is on the terminal.
struct Screen {
    renderer: TuiMetricsRendererWrapper,
    interrupter: Interrupter,
    line: ProgressLine,
    progress: Span,
    points: Points,
}

impl Screen {
    fn new(facts: &Facts, title: &str) -> Self {
        let interrupter = Interrupter::new();
        let renderer = TuiMetricsRendererWrapper::new(interrupter.clone(), None);
        let progress = Span::new(facts);
        let line = ProgressLine::new(facts.limits, 1);
        let points = Points::new(facts.ternary > 0);
        let mut screen = Self { renderer, interrupter, line, progress, points };
        screen.points.curves.iter().for_each(|name| screen.renderer.register_metric(definition(name, true)));
        screen.renderer.register_metric(definition("Sample", false));
        screen.title(title);
        screen.renderer.start_split("train", screen.progress.total());
        // The terminal changes its mode a moment later, on a thread of the renderer.
        for _ in 0..100 {
            if keep_signals() {
                break;
            }
            sleep(Duration::from_millis(5));
        }
        screen
    }

    fn title(&mut self, title: &str) {
        // Burn counts in epochs: a run is one, and its steps or seconds are its items.
        self.renderer.start(1, 1, Some(self.progress.total()), Some(title));
    }

    fn show(&mut self, record: &StepRecord) {
        for Point { name, is_held_out, value, text } in self.points.of(record) {
            match is_held_out {
                true => self.renderer.update_valid(curve(name, value, text)),
                false => self.renderer.update_train(curve(name, value, text)),
            }
        }
        if let Some(sample) = &record.sample {
            let piece: String = sample.chars().take(SAMPLE).collect();
            let words: Vec<&str> = piece.split_whitespace().collect();
            self.renderer.update_train(MetricState::Generic(entry("Sample", spelled_out(&words.join(" ")))));
        }
        let done = self.progress.done(record);
        self.renderer.update_split(done);
    }
}

/// What a step adds to a curve; a value that is no number adds nothing but its place.
#[derive(Clone, Debug)]
struct Point {
    name: &'static str,
    is_held_out: bool,
    value: f64,
    text: String,
}

/// The points of each step. Burn's plots count points and not steps, so every curve gets one in every step; what was not
/// measured in this one is a gap, beside which the latest figure stays.
struct Points {
    curves: Vec<&'static str>,
    latest: HashMap<&'static str, String>,
}

impl Points {
    fn new(is_ternary: bool) -> Self {
        let ternary_only = [ZEROS, FLIPS];
        let curves = CURVES.into_iter().filter(|name| is_ternary || !ternary_only.contains(name));
        Self { curves: curves.collect(), latest: HashMap::new() }
    }

    fn of(&mut self, record: &StepRecord) -> Vec<Point> {
        let nats = |loss: f64| format!("{loss:.4} nats a token");
        let percent = |share: f64| (100.0 * share, format!("{:.2} %", 100.0 * share));
        let measured = |name: &str| match name {
            LOSS => Some((record.train_loss, nats(record.train_loss))),
            BITS_PER_BYTE => record.valid.map(|valid| (valid.bits_per_byte, format!("{:.4}", valid.bits_per_byte))),
            SPEED => Some((record.tokens_per_second, format!("{:.0}", record.tokens_per_second))),
            LEARNING_RATE => Some((record.learning_rate, format!("{:.3e}", record.learning_rate))),
            GRADIENT_NORM => Some((record.grad_norm, format!("{:.3}", record.grad_norm))),
            ZEROS => record.layer_mean(|layer| layer.zero_fraction).map(percent),
            _ => record.layer_mean(|layer| layer.flip_rate).map(percent),
        };
        let mut points = Vec::new();
        for name in self.curves.iter().copied() {
            let (value, text) = measured(name)
                .unwrap_or_else(|| (f64::NAN, self.latest.get(name).cloned().unwrap_or_else(|| "-".to_string())));
            self.latest.insert(name, text.clone());
            points.push(Point { name, is_held_out: name == BITS_PER_BYTE, value, text });
        }
        // The one curve with two lines takes two places in the steps that both have a point.
        let held_out = record.valid.map(|valid| valid.loss);
        points.extend(held_out.map(|loss| Point { name: LOSS, is_held_out: true, value: loss, text: nats(loss) }));
        points
    }
}

/// How far a run is: what is left of it when it begins, in steps or, where nothing but time ends it, in seconds.
struct Span {
    limits: Limits,
    first_step: u64,
    /// The clock at the first record.
    first_second: Option<f64>,
}

impl Span {
    fn new(facts: &Facts) -> Self {
        Self { limits: facts.limits, first_step: facts.resumed_from.unwrap_or(0), first_second: None }
    }

    fn steps(&self) -> Option<f64> {
        self.limits.steps.map(|steps| steps.saturating_sub(self.first_step).max(1) as f64)
    }

    fn total(&self) -> usize {
        self.steps().or(self.limits.seconds).unwrap_or(1.0).ceil().max(1.0) as usize
    }

    /// Of the total; the nearer end counts.
    fn done(&mut self, record: &StepRecord) -> usize {
        let first_second = *self.first_second.get_or_insert(record.elapsed_seconds);
        let by_steps = self.steps().map(|steps| record.step.saturating_sub(self.first_step) as f64 / steps);
        let by_time = self.limits.seconds.map(|seconds| {
            let left = (seconds - first_second).max(f64::MIN_POSITIVE);
            (record.elapsed_seconds - first_second) / left
        });
        let share = by_steps.into_iter().chain(by_time).fold(0.0, f64::max).min(1.0);
        (share * self.total() as f64).round() as usize
    }
}

fn id(name: &str) -> MetricId {
    MetricId::new(Arc::new(name.to_string()))
}

fn definition(name: &str, is_curve: bool) -> MetricDefinition {
    let numeric = NumericAttributes { unit: None, higher_is_better: name == SPEED };
    MetricDefinition {
        metric_id: id(name),
        name: Arc::new(name.to_string()),
        description: None,
        attributes: if is_curve { numeric.into() } else { MetricAttributes::None },
    }
}

fn entry(name: &str, text: String) -> MetricEntry {
    MetricEntry::new(id(name), SerializedEntry::new(text.clone(), text))
}

/// A point; a value that is no number has none.
fn curve(name: &str, value: f64, text: String) -> MetricState {
    MetricState::Numeric(entry(name, text), value.is_finite().then_some(NumericEntry::Value(value)))
}

#[cfg(test)]
mod tests {
    use bitnet::training::metrics::Validation;

    use super::*;

    fn span(limits: Limits, resumed_from: Option<u64>) -> Span {
        Span { limits, first_step: resumed_from.unwrap_or(0), first_second: None }
    }

    fn at(step: u64, elapsed_seconds: f64) -> StepRecord {
        StepRecord { step, elapsed_seconds, ..StepRecord::default() }
    }

    #[test]
    fn progress_is_that_of_what_was_left_to_do() {
        let mut steps = span(Limits { steps: Some(200), seconds: None }, Some(150));
        assert_eq!((steps.total(), steps.done(&at(151, 90.0)), steps.done(&at(200, 99.0))), (50, 1, 50));

        let mut time = span(Limits { steps: None, seconds: Some(60.0) }, None);
        assert_eq!(
            (time.total(), time.done(&at(1, 0.0)), time.done(&at(9, 30.0)), time.done(&at(10, 61.0))),
            (60, 0, 30, 60)
        );

        // The clock is nearer its end than the steps are.
        let mut both = span(Limits { steps: Some(100), seconds: Some(10.0) }, None);
        assert_eq!((both.total(), both.done(&at(1, 0.0)), both.done(&at(2, 5.0))), (100, 1, 50));
    }

    #[test]
    fn every_curve_has_a_place_in_every_step() {
        let mut points = Points::new(false);
        let of = |points: &mut Points, record: &StepRecord| -> Vec<(&'static str, bool, bool, String)> {
            let all = points.of(record).into_iter();
            all.map(|point| (point.name, point.is_held_out, point.value.is_finite(), point.text)).collect()
        };
        let valid = Some(Validation { loss: 2.5, bits_per_byte: 1.5, tokens: 9, accuracy: None });
        let record = StepRecord { train_loss: 3.0, valid, ..at(1, 0.0) };
        let measured = of(&mut points, &record);
        assert_eq!((measured.len(), measured[5].clone()), (6, (LOSS, true, true, "2.5000 nats a token".to_string())));
        let other = of(&mut points, &StepRecord { valid: None, ..record });
        assert_eq!(other.len(), 5);
        assert_eq!(other[1], (BITS_PER_BYTE, true, false, "1.5000".to_string()));
        assert_eq!(Points::new(true).of(&at(1, 0.0)).len(), CURVES.len());
    }

    #[test]
    fn what_is_no_number_has_no_point() {
        assert!(matches!(curve(LOSS, f64::NAN, "NaN".to_string()), MetricState::Numeric(_, None)));
        assert!(matches!(curve(LOSS, 1.5, "1.5".to_string()), MetricState::Numeric(_, Some(NumericEntry::Value(1.5)))));
    }
}
