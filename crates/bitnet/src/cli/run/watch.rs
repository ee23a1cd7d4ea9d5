//! What a run says on stderr when it is not watched on a terminal.

use bitnet::training::data::{Origin, Progress};
use bitnet::training::metrics::ProgressLine;
use bitnet::training::{Event, Facts, Observer, Tried};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::note;

/// A line every so many steps.
pub struct Lines {
    every: u64,
    bar: Option<ProgressBar>,
    line: Option<ProgressLine>,
}

impl Lines {
    pub fn new(every: u64) -> Self {
        Self { every, bar: None, line: None }
    }

    fn data(&mut self, progress: Progress) {
        let (what, done, total) = match progress {
            Progress::Checking { done, total } => ("checking", done, total),
            Progress::Tokenizing { done, total } => ("tokenizing", done, total),
        };
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg} {bar:40} {bytes}/{total_bytes}, {eta} left");
            ProgressBar::new(total).with_style(style.expect("a correct template"))
        });
        bar.set_length(total);
        bar.set_message(what);
        bar.set_position(done);
    }

    fn begin(&mut self, facts: &Facts) {
        self.line = Some(ProgressLine::new(facts.limits, self.every));
        note(facts_line(facts));
        if let Some(step) = facts.resumed_from {
            note(format_args!("resumed after step {step}"));
        }
    }
}

impl Observer for Lines {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Data(progress) => self.data(progress),
            Event::DataReady(origin) => {
                if let Some(bar) = self.bar.take() {
                    bar.finish_and_clear();
                }
                if let Origin::Repaired { reason } = origin {
                    note(format_args!("tokenized again: {reason}"));
                }
            }
            Event::Tried(Tried { learning_rate, valid_loss: Some(loss) }) => {
                note(format_args!("learning rate {learning_rate:.2e}: {loss:.4} nats a token held out"));
            }
            Event::Tried(Tried { learning_rate, valid_loss: None }) => {
                note(format_args!("learning rate {learning_rate:.2e}: numbers are no longer finite"));
            }
            Event::Begin(facts) => self.begin(facts),
            Event::CutOff { documents, of } => {
                note(format_args!(
                    "warning: {documents} of {of} documents are longer than the context, and cut off there"
                ));
            }
            Event::Step(record) => {
                if let Some(line) = self.line.as_mut().and_then(|line| line.line(record)) {
                    note(line);
                }
                if let Some(sample) = &record.sample {
                    note(format_args!("sample: {sample}"));
                }
            }
            Event::Alert(alert) => note(format_args!("warning: {alert}")),
            Event::Checkpoint(path) => note(format_args!("checkpoint {}", path.display())),
            Event::Export(path) => note(format_args!("writing {}", path.display())),
            _ => {}
        }
    }
}

/// What the run is.
pub fn facts_line(facts: &Facts) -> String {
    let [train, valid] = facts.tokens;
    format!(
        "{} parameters, {} of them ternary; {train} tokens to train on, {valid} held out, vocabulary {}; {} tokens a step",
        facts.parameters, facts.ternary, facts.vocab_size, facts.tokens_per_step
    )
}
