//! A bar for work over the weights of a model.

use std::io::{IsTerminal, stderr};
use std::sync::Mutex;

use bitnet::format::convert::{Progress, Stage};
use indicatif::{ProgressBar, ProgressStyle};

/// Shows on a terminal how far a conversion is; elsewhere nothing.
pub struct Bar(Mutex<Option<(Stage, ProgressBar)>>);

impl Bar {
    pub fn new() -> Self {
        Self(Mutex::new(None))
    }

    pub fn show(&self, Progress { stage, done, total }: Progress) {
        if !stderr().is_terminal() {
            return;
        }
        let mut current = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let is_same = current.as_ref().is_some_and(|(shown, _)| *shown == stage);
        if !is_same {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos} of {human_len} weights, {eta} left")
                .expect("a correct template");
            let message = match stage {
                Stage::Write => "writing  ",
                Stage::Verify => "verifying",
            };
            let bar = ProgressBar::new(total).with_style(style).with_message(message);
            if let Some((_, before)) = current.replace((stage, bar)) {
                before.finish_and_clear();
            }
        }
        if let Some((_, bar)) = &*current {
            bar.set_position(done);
        }
    }
}

impl Drop for Bar {
    /// What follows has the line for itself.
    fn drop(&mut self) {
        let current = self.0.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, bar)) = current.take() {
            bar.finish_and_clear();
        }
    }
}
