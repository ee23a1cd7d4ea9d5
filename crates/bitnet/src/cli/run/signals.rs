//! Ctrl-C and SIGTERM.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::{CliError, note};

/// What signals do to a run.
#[derive(Clone, Default)]
pub struct Signals {
    /// Ends the run after the step that is under way.
    pub stop: Arc<AtomicBool>,
    /// Whether the terminal is in the hands of the dashboard.
    pub on_screen: Arc<AtomicBool>,
}

impl Signals {
    /// From now on the first signal ends the run after the step that is under way, and the second one ends the process.
    pub fn catch() -> Result<Self, CliError> {
        let signals = Self::default();
        let Self { stop, on_screen } = signals.clone();
        let handler = move || {
            let on_screen = on_screen.load(Ordering::Relaxed);
            if stop.swap(true, Ordering::Relaxed) {
                #[cfg(feature = "tui")]
                if on_screen {
                    super::terminal::restore();
                }
                std::process::exit(130);
            }
            if !on_screen {
                note("stopping after this step; once more to stop at once");
            }
        };
        ctrlc::set_handler(handler).map_err(|error| CliError::Usage(format!("signals cannot be caught: {error}")))?;
        Ok(signals)
    }
}
