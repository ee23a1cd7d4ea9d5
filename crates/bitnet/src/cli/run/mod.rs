//! What every command that trains has in common.

mod from_model;
mod step_args;
mod watch;

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bitnet::model::{DeviceKind, pool};
use bitnet::training::data::Source;
use bitnet::training::metrics::final_line;
use bitnet::training::recipe::Recipe;
use bitnet::training::{RunOptions, train};
use clap::Args;

pub use self::from_model::FromModel;
pub use self::step_args::{StepArgs, set};
use self::watch::Lines;
use super::{CliError, note};

/// Where a run is, on what, and what is held out.
#[derive(Args)]
pub struct RunArgs {
    /// Folder of the run
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,

    /// Held-out data; without it, one document in --hold-out is held out, or the last tenth of a single text
    #[arg(long, value_name = "FILE")]
    validation: Option<PathBuf>,

    /// One document in so many is held out
    #[arg(long, value_name = "N", default_value_t = 50)]
    hold_out: u64,

    /// Go on from the latest checkpoint in the folder
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,

    /// Replace the run that is in the folder
    #[arg(long)]
    overwrite: bool,

    /// Where to train: see `bitnet devices`
    #[arg(long, default_value = DeviceKind::default_name())]
    device: String,

    /// Threads to use [default: the physical cores that the process may use]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Steps between two lines on stderr
    #[arg(long, value_name = "N", default_value_t = 10)]
    log_every: u64,
}

impl RunArgs {
    /// Trains as `recipe` says, and prints the figures of the run as one line of JSON.
    pub fn run(self, source: Source, recipe: Recipe) -> Result<(), CliError> {
        if let Some(threads) = self.threads {
            // Whoever came first has chosen; results do not depend on it.
            let _ = pool::configure(Some(usize::from(threads)), false);
        }
        let options = RunOptions {
            source,
            validation: self.validation.map(Source::new),
            one_in: self.hold_out,
            out: self.out,
            recipe,
            device: bitnet::model::device(&self.device)?,
            resume: self.resume,
            overwrite: self.overwrite,
            command: command_line(),
        };
        let stop = stop_on_signal()?;
        let mut lines = Lines::new(self.log_every);
        let outcome = train(&options, &mut lines, &stop)?;
        let line = final_line(&outcome).map_err(|error| CliError::Usage(error.to_string()))?;
        writeln!(stdout(), "{line}")?;
        Ok(())
    }
}

/// The first signal ends the run after the step that is under way; the second one ends the process.
fn stop_on_signal() -> Result<Arc<AtomicBool>, CliError> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let handler = move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        note("stopping after this step; once more to stop at once");
    };
    ctrlc::set_handler(handler).map_err(|error| CliError::Usage(format!("signals cannot be caught: {error}")))?;
    Ok(stop)
}

/// The command as one could type it again.
fn command_line() -> String {
    let quoted = std::env::args().map(|arg| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,%+@".contains(c);
        if !arg.is_empty() && arg.chars().all(plain) { arg } else { format!("'{}'", arg.replace('\'', r"'\''")) }
    });
    quoted.collect::<Vec<_>>().join(" ")
}
