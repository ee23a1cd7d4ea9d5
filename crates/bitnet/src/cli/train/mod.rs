//! `bitnet train`.

mod recipe_args;

use std::path::PathBuf;

use bitnet::training::RunFolder;
use bitnet::training::data::Source;
use bitnet::training::schedule::LambdaSchedule;
use clap::Args;

use self::recipe_args::RecipeArgs;
use super::CliError;
use super::run::RunArgs;

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

    #[command(flatten)]
    recipe: RecipeArgs,

    /// What stands between the documents of a text file, such as "<|endoftext|>"
    #[arg(long, value_name = "TEXT")]
    separator: Option<String>,

    /// Begin with the weights of this model file or folder
    #[arg(long, value_name = "MODEL")]
    from: Option<PathBuf>,

    #[command(flatten)]
    run: RunArgs,
}

impl Train {
    pub fn run(self) -> Result<(), CliError> {
        let before = self.run.resume.then(|| RunFolder::new(&self.run.out)).filter(RunFolder::is_begun);
        let before = before.map(|folder| folder.read_recipe()).transpose()?;
        let ready_made = before.is_none() && self.recipe.is_ready_made();
        let mut recipe = self.recipe.recipe(before)?;
        if let Some(from) = self.from {
            if ready_made {
                // Weights that may be ternary already are not to be floats again first.
                recipe.quantization.lambda = LambdaSchedule::One;
            }
            let whole = from.canonicalize();
            recipe.from = Some(whole.map_err(|error| CliError::Read { path: from, error })?);
        }
        self.run.run(Source { paths: self.data, separator: self.separator }, recipe)
    }
}
