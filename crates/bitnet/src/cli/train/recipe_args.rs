//! The flags that change a recipe.

use std::path::PathBuf;

use bitnet::training::recipe::{
    OptimizerKind, Recipe, ScaleChoice, Size, StorageChoice, TokenizerChoice, WeightsChoice,
};
use bitnet::training::schedule::{LambdaSchedule, LearningRateSchedule, Span, WeightDecaySchedule};
use clap::Args;

use crate::cli::CliError;

/// A recipe: that of a size or of a file, with some settings changed.
#[derive(Args)]
pub struct RecipeArgs {
    /// A ready-made network with its recipe: tiny, 10m, 30m or 100m [default: tiny]
    #[arg(long, conflicts_with = "recipe")]
    size: Option<Size>,

    /// A recipe file; `recipe.toml` of any run is one
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,

    /// Optimizer steps; 0 for no limit but the time
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,

    /// Seconds of training; schedules then follow the clock, unless the steps are nearer their end
    #[arg(long, value_name = "S")]
    max_seconds: Option<f64>,

    /// Chooses the first weights and the order of the data
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// bytes, bpe:N, or the path of a tokenizer.json
    #[arg(long, value_name = "TOKENIZER")]
    tokenizer: Option<TokenizerChoice>,

    /// ternary, or none for the float twin
    #[arg(long, value_name = "WEIGHTS")]
    quant: Option<WeightsChoice>,

    /// Weights that share a scale: tensor, row or group:N
    #[arg(long, value_name = "WHAT")]
    scale: Option<ScaleChoice>,

    /// Bits of the activations: 8, or none for floats
    #[arg(long, value_name = "BITS", value_parser = act_bits)]
    act_bits: Option<u8>,

    /// How far values are quantized over the run: one, or linear:over=STEPS
    #[arg(long, value_name = "SCHEDULE")]
    lambda: Option<LambdaSchedule>,

    /// Leave out the norms before o_proj and down_proj
    #[arg(long)]
    no_subln: bool,

    /// Positions in a row, and the model's context
    #[arg(long, value_name = "N")]
    context: Option<usize>,

    /// Rows in a step
    #[arg(long, value_name = "N")]
    batch: Option<usize>,

    /// Parts that a step is computed in
    #[arg(long, value_name = "N")]
    accumulate: Option<usize>,

    /// Save memory: compute the insides of each block a second time for the backward pass
    #[arg(long)]
    checkpoint_activations: bool,

    /// adamw or muon
    #[arg(long, value_name = "NAME")]
    optimizer: Option<OptimizerKind>,

    /// The highest learning rate
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,

    /// two-stage, wsd, cosine or constant, with options: cosine:floor=0.1
    #[arg(long, value_name = "SCHEDULE")]
    schedule: Option<LearningRateSchedule>,

    /// How long the learning rate takes to get there: steps, or a share of the run such as 2%
    #[arg(long, value_name = "SPAN")]
    warmup: Option<Span>,

    /// Decay of the linears' weights
    #[arg(long, value_name = "RATE")]
    weight_decay: Option<f64>,

    /// constant, two-stage or cosine
    #[arg(long, value_name = "SCHEDULE")]
    weight_decay_schedule: Option<WeightDecaySchedule>,

    /// What embedding and head are stored in: f32, f16 or bf16
    #[arg(long, value_name = "TYPE")]
    embedding: Option<StorageChoice>,

    /// Steps between two measurements on held-out text
    #[arg(long, value_name = "N")]
    validate_every: Option<u64>,

    /// Steps between two checkpoints
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u64>,

    /// Latest checkpoints that are kept, besides the best one
    #[arg(long, value_name = "N")]
    keep: Option<usize>,

    /// Steps between two texts that the model writes; 0 for none
    #[arg(long, value_name = "N")]
    sample_every: Option<u64>,

    /// What these texts begin with
    #[arg(long, value_name = "TEXT")]
    sample_prompt: Option<String>,
}

fn act_bits(text: &str) -> Result<u8, String> {
    match text {
        "8" => Ok(8),
        "none" => Ok(0),
        _ => Err("8 or none".to_string()),
    }
}

impl RecipeArgs {
    /// The recipe: of the size or the file that was asked for, else `before`, the one of the run that is resumed.
    pub fn recipe(self, before: Option<Recipe>) -> Result<Recipe, CliError> {
        let mut recipe = match (&self.recipe, self.size, before) {
            (Some(path), ..) => {
                let text =
                    std::fs::read_to_string(path).map_err(|error| CliError::Read { path: path.clone(), error })?;
                Recipe::parse(&text).map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?
            }
            (None, Some(size), _) => size.recipe(),
            (None, None, Some(before)) => before,
            (None, None, None) => Size::Tiny.recipe(),
        };
        if let Some(seconds) = self.max_seconds {
            recipe.run.max_seconds = seconds;
            // A limit that nobody asked for does not end a run before its time.
            recipe.run.max_steps = 0;
        }
        let (model, quantization, batch) = (&mut recipe.model, &mut recipe.quantization, &mut recipe.batch);
        let (optimizer, run) = (&mut recipe.optimizer, &mut recipe.run);
        set(&mut run.max_steps, self.max_steps);
        set(&mut recipe.seed, self.seed);
        set(&mut recipe.tokenizer, self.tokenizer);
        set(&mut quantization.weights, self.quant);
        set(&mut quantization.scale, self.scale);
        set(&mut quantization.act_bits, self.act_bits);
        set(&mut quantization.lambda, self.lambda);
        model.sub_norms &= !self.no_subln;
        set(&mut model.context, self.context);
        set(&mut model.embedding, self.embedding);
        set(&mut batch.rows, self.batch);
        set(&mut batch.accumulate, self.accumulate);
        batch.checkpoint_activations |= self.checkpoint_activations;
        set(&mut optimizer.kind, self.optimizer);
        set(&mut optimizer.learning_rate.peak, self.lr);
        set(&mut optimizer.learning_rate.schedule, self.schedule);
        set(&mut optimizer.learning_rate.warmup, self.warmup);
        set(&mut optimizer.weight_decay.value, self.weight_decay);
        set(&mut optimizer.weight_decay.schedule, self.weight_decay_schedule);
        set(&mut run.validate_every, self.validate_every);
        set(&mut run.checkpoint_every, self.checkpoint_every);
        set(&mut run.keep, self.keep);
        set(&mut run.sample_every, self.sample_every);
        set(&mut run.sample_prompt, self.sample_prompt);
        recipe.check().map_err(|error| CliError::Usage(error.to_string()))?;
        Ok(recipe)
    }
}

fn set<T>(setting: &mut T, wanted: Option<T>) {
    if let Some(wanted) = wanted {
        *setting = wanted;
    }
}
