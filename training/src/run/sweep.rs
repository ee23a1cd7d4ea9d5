//! The search for a learning rate: some short runs, of which the best one decides.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::{Event, Observer, RunFolder, RunOptions, train};
use crate::TrainError;
use crate::recipe::{Recipe, TokenizerChoice};
use crate::schedule::{LambdaSchedule, Span};
use crate::tokenizer::TokenizerFiles;

/// The rates that are tried, as multiples of the recipe's highest.
const FACTORS: [f64; 3] = [0.5, 1.0, 2.0];

/// Steps of a try where the recipe has no last step: a run that is ended by the clock.
const STEPS: u64 = 100;

/// A learning rate that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// The highest of the run.
    pub learning_rate: f64,
    /// Nats a token on all held-out text; `None` where numbers were no longer finite.
    pub valid_loss: Option<f64>,
}

/// What is kept of a search, so that one that was stopped goes on.
#[derive(Serialize, Deserialize)]
struct Search {
    /// The recipe of a try, but for its learning rate.
    recipe: String,
    tried: Vec<Tried>,
}

/// Tries half of the recipe's learning rate, the rate itself and twice as much, each in a run of `steps` steps (a tenth of
/// those of the recipe, if it is not said) whose schedules are those of the whole run, and gives what they came to and the
/// best of them. A short run prefers a rate that is rather high for a long one.
///
/// What was tried is kept in `lr-sweep.json` in the folder of the run: a search that was stopped goes on where it was.
///
/// # Errors
/// Those of [`train`], but for numbers that are no longer finite, which only rule out their rate; when that happened to all of
/// them; and when `stop` has ended the search.
pub fn sweep_learning_rate(
    options: &RunOptions,
    steps: Option<u64>,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<(Vec<Tried>, f64), TrainError> {
    options.recipe.check()?;
    if RunFolder::new(&options.out).is_begun() && !options.overwrite {
        return Err(TrainError::Exists(options.out.clone()));
    }
    let (folder, tries) = (RunFolder::new(&options.out), Tries::of(options, steps)?);
    let mut search = tries.search(&folder, options.overwrite)?;
    for rate in FACTORS.map(|factor| factor * options.recipe.optimizer.learning_rate.peak) {
        if search.tried.iter().any(|tried| tried.learning_rate == rate) {
            continue;
        }
        let result = train(&tries.at(rate), &mut Quiet(observer), stop);
        if stop.load(Ordering::Relaxed) {
            return Err(TrainError::SweepStopped);
        }
        let valid_loss = match result {
            Ok(outcome) => outcome.valid_loss.filter(|loss| loss.is_finite()),
            Err(TrainError::NotFinite { .. }) => None,
            Err(error) => return Err(error),
        };
        let tried = Tried { learning_rate: rate, valid_loss };
        observer.event(Event::Tried(&tried));
        search.tried.push(tried);
        tries.keep(&folder, &search)?;
    }
    let losses = search.tried.iter().filter_map(|tried| Some((tried.valid_loss?, tried.learning_rate)));
    let best = losses.min_by(|a, b| a.0.total_cmp(&b.0)).ok_or(TrainError::SweepFailed)?.1;
    Ok((search.tried, best))
}

/// The runs of a search.
struct Tries {
    options: RunOptions,
}

impl Tries {
    fn of(options: &RunOptions, steps: Option<u64>) -> Result<Self, TrainError> {
        let out = options.out.join("lr-sweep");
        let mut recipe = short(&options.recipe, steps);
        if matches!(recipe.tokenizer, TokenizerChoice::Bpe(_)) {
            // Its merges are learned once, not in each try.
            let made = options.out.join("lr-sweep-tokenizer");
            if !made.join("tokenizer.json").exists() {
                TokenizerFiles::choose(&recipe, &options.source, &mut |_| {})?.write(&made)?;
            }
            recipe.tokenizer = TokenizerChoice::File(made);
        }
        let options = RunOptions { out, recipe, resume: false, overwrite: true, ..options.clone() };
        Ok(Self { options })
    }

    fn at(&self, rate: f64) -> RunOptions {
        let mut options = self.options.clone();
        options.recipe.optimizer.learning_rate.peak = rate;
        options
    }

    /// What was tried before with this recipe.
    fn search(&self, folder: &RunFolder, anew: bool) -> Result<Search, TrainError> {
        let recipe = self.options.recipe.to_toml();
        let path = folder.sweep();
        let fresh = Search { recipe: recipe.clone(), tried: Vec::new() };
        match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(fresh),
            Err(error) => Err(TrainError::io(&path)(error)),
            _ if anew => Ok(fresh),
            Ok(bytes) => {
                let search: Search =
                    serde_json::from_slice(&bytes).map_err(|error| TrainError::io(&path)(error.into()))?;
                Ok(if search.recipe == recipe { search } else { fresh })
            }
        }
    }

    fn keep(&self, folder: &RunFolder, search: &Search) -> Result<(), TrainError> {
        let path = folder.sweep();
        let json = serde_json::to_vec_pretty(search).map_err(|error| TrainError::io(&path)(error.into()))?;
        crate::metrics::replace(&path, |file| std::io::Write::write_all(file, &json)).map_err(TrainError::io(&path))?;
        let out: &PathBuf = &self.options.out;
        // The tokenized data of a try is that of the next one.
        for part in ["checkpoints", "hf", "adapter"].map(|part| out.join(part)).iter().filter(|part| part.exists()) {
            fs::remove_dir_all(part).map_err(TrainError::io(part))?;
        }
        Ok(())
    }
}

/// A recipe for fewer steps, with schedules of the same shape.
fn short(recipe: &Recipe, steps: Option<u64>) -> Recipe {
    let mut short = recipe.clone();
    let whole = recipe.run.max_steps;
    let steps = steps.unwrap_or(if whole > 0 { (whole / 10).max(1) } else { STEPS }).max(1);
    if whole > 0 {
        let share = |span: Span| match span {
            Span::Steps(steps) => Span::Share((steps as f64 / whole as f64).min(1.0)),
            share => share,
        };
        short.optimizer.learning_rate.warmup = share(recipe.optimizer.learning_rate.warmup);
        if let LambdaSchedule::Linear { over } = recipe.quantization.lambda {
            short.quantization.lambda = LambdaSchedule::Linear { over: share(over) };
        }
    }
    let run = &mut short.run;
    (run.max_steps, run.epochs, run.max_seconds) = (steps, 0.0, 0.0);
    (run.validate_every, run.inspect_every, run.sample_every) = (0, 0, 0);
    (run.checkpoint_every, run.keep) = (steps + 1, 1);
    short
}

/// Passes on what is said of the data, and nothing of the steps.
struct Quiet<'a>(&'a mut dyn Observer);

impl Observer for Quiet<'_> {
    fn event(&mut self, event: Event<'_>) {
        if matches!(event, Event::Tokenizer(_) | Event::Data(_) | Event::DataReady(_)) {
            self.0.event(event);
        }
    }
}
