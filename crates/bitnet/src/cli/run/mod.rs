//! What every command that trains has in common.

#[cfg(feature = "tui")]
mod dashboard;
mod from_model;
mod signals;
mod step_args;
#[cfg(feature = "tui")]
mod terminal;
mod watch;

#[cfg(feature = "tui")]
use std::io::IsTerminal;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use bitnet::model::{DeviceKind, pool};
use bitnet::training::data::Source;
use bitnet::training::metrics::final_line;
use bitnet::training::recipe::Recipe;
use bitnet::training::{Observer, RunOptions, sweep_learning_rate, train};
use clap::Args;

pub use self::from_model::FromModel;
use self::signals::Signals;
pub use self::step_args::{StepArgs, set};
use self::watch::Lines;
use super::CliError;

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

    /// Train on several devices at once, each with a share of every step; the first has the weights and the optimizer
    #[arg(long, value_name = "DEVICE,...", value_delimiter = ',', conflicts_with = "device")]
    devices: Vec<String>,

    /// Try half of the learning rate, the rate itself and twice as much before the run, in so many steps each [default: a
    /// tenth of those of the run], and train with the best of them
    #[arg(long, value_name = "STEPS", num_args = 0..=1, require_equals = true, conflicts_with = "resume")]
    lr_sweep: Option<Option<u64>>,

    /// Threads to use [default: the physical cores that the process may use]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Steps between two lines on stderr
    #[arg(long, value_name = "N", default_value_t = 10)]
    log_every: u64,

    /// Lines on a terminal too, in place of the dashboard
    #[arg(long)]
    no_tui: bool,
}

impl RunArgs {
    /// Trains as `recipe` says, and prints the figures of the run as one line of JSON.
    pub fn run(self, source: Source, recipe: Recipe) -> Result<(), CliError> {
        if let Some(threads) = self.threads {
            // Whoever came first has chosen; results do not depend on it.
            let _ = pool::configure(Some(usize::from(threads)), false);
        }
        let names = if self.devices.is_empty() { vec![self.device] } else { self.devices };
        let mut devices = names.iter().map(|name| bitnet::model::device(name)).collect::<Result<Vec<_>, _>>()?;
        let mut options = RunOptions {
            source,
            validation: self.validation.map(Source::new),
            one_in: self.hold_out,
            out: self.out,
            recipe,
            device: devices.remove(0),
            more_devices: devices,
            resume: self.resume,
            overwrite: self.overwrite,
            command: command_line(),
        };
        let signals = Signals::catch()?;
        let mut observer = observer(!self.no_tui, Lines::new(self.log_every), &options.out, &signals);
        let outcome = self.lr_sweep.map_or(Ok(()), |steps| {
            let (_, best) = sweep_learning_rate(&options, steps, &mut *observer, &signals.stop)?;
            options.recipe.optimizer.learning_rate.peak = best;
            Ok(())
        });
        let outcome = outcome.and_then(|()| train(&options, &mut *observer, &signals.stop));
        // The terminal is as it was before anything else is written to it.
        drop(observer);
        let outcome = outcome?;
        let line = final_line(&outcome).map_err(|error| CliError::Usage(error.to_string()))?;
        writeln!(stdout(), "{line}")?;
        Ok(())
    }
}

/// The dashboard where it is `wanted` and there is a terminal to show it on, else `lines`.
#[cfg(feature = "tui")]
fn observer(wanted: bool, lines: Lines, out: &Path, signals: &Signals) -> Box<dyn Observer> {
    if wanted && stdout().is_terminal() {
        Box::new(dashboard::Dashboard::new(lines, out, signals.clone()))
    } else {
        Box::new(lines)
    }
}

/// This build has no dashboard.
#[cfg(not(feature = "tui"))]
fn observer(_: bool, lines: Lines, _: &Path, _: &Signals) -> Box<dyn Observer> {
    Box::new(lines)
}

/// The command as one could type it again.
fn command_line() -> String {
    let quoted = std::env::args().map(|arg| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,%+@".contains(c);
        if !arg.is_empty() && arg.chars().all(plain) { arg } else { format!("'{}'", arg.replace('\'', r"'\''")) }
    });
    quoted.collect::<Vec<_>>().join(" ")
}
