//! `bitnet train`.

#[cfg(feature = "tui")]
mod dashboard;
mod recipe_args;
mod signals;
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
use bitnet::training::{Observer, RunFolder, RunOptions, train};
use clap::Args;

use self::recipe_args::RecipeArgs;
use self::signals::Signals;
use self::watch::Lines;
use super::CliError;

/// Trains a ternary model on text, and leaves a packed one that runs.
///
/// The folder gets model.gguf (I2_S), hf/ (packed safetensors), metrics.csv, metrics.jsonl, tensorboard/, report.html and
/// the checkpoints. The last line on stdout is one JSON object with the figures of the run. Ctrl-C and SIGTERM end the run
/// after the step that is under way, with a checkpoint and a model. On a terminal a dashboard shows the run.
#[derive(Args)]
pub struct Train {
    /// Text (.txt, .md), conversations or texts (.jsonl, .parquet), or folders of them
    #[arg(required = true)]
    data: Vec<PathBuf>,

    /// Folder of the run
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,

    #[command(flatten)]
    recipe: RecipeArgs,

    /// Held-out text; without it, one document in --hold-out is held out, or the last tenth of a single text
    #[arg(long, value_name = "FILE")]
    validation: Option<PathBuf>,

    /// One document in so many is held out
    #[arg(long, value_name = "N", default_value_t = 50)]
    hold_out: u64,

    /// What stands between the documents of a text file, such as "<|endoftext|>"
    #[arg(long, value_name = "TEXT")]
    separator: Option<String>,

    /// Begin with the weights of this model file or folder
    #[arg(long, value_name = "MODEL")]
    from: Option<PathBuf>,

    /// Go on from the latest checkpoint in the folder
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,

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

    /// Lines on a terminal too, in place of the dashboard
    #[arg(long)]
    no_tui: bool,
}

impl Train {
    pub fn run(self) -> Result<(), CliError> {
        if let Some(threads) = self.threads {
            // Whoever came first has chosen; results do not depend on it.
            let _ = pool::configure(Some(usize::from(threads)), false);
        }
        let source = Source { paths: self.data, separator: self.separator };
        let before = self.resume.then(|| RunFolder::new(&self.out)).filter(RunFolder::is_begun);
        let before = before.map(|folder| folder.read_recipe()).transpose()?;
        let options = RunOptions {
            source,
            validation: self.validation.map(Source::new),
            one_in: self.hold_out,
            out: self.out,
            recipe: self.recipe.recipe(before)?,
            device: bitnet::model::device(&self.device).map_err(|error| CliError::Usage(error.to_string()))?,
            resume: self.resume,
            overwrite: self.overwrite,
            from: self.from,
            command: command_line(),
        };
        let signals = Signals::catch()?;
        let mut observer = observer(!self.no_tui, Lines::new(self.log_every), &options.out, &signals);
        let outcome = train(&options, &mut *observer, &signals.stop);
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
