//! The flags that say how long and in which steps a run goes on.

use bitnet::training::recipe::{OptimizerKind, PrecisionChoice, Recipe, Reduction};
use bitnet::training::schedule::{LearningRateSchedule, Span, WeightDecaySchedule};
use clap::Args;

use crate::cli::CliError;

/// Steps of a run: what a flag does not give stays as the recipe has it.
#[derive(Args)]
pub struct StepArgs {
    /// Optimizer steps; 0 for no limit but the time
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,

    /// Times that the data is used up, in place of a number of steps
    #[arg(long, value_name = "N", conflicts_with = "max_steps")]
    epochs: Option<f64>,

    /// Seconds of training; schedules then follow the clock, unless the steps are nearer their end
    #[arg(long, value_name = "S")]
    max_seconds: Option<f64>,

    /// Chooses the first weights and the order of the data
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Rows in a step
    #[arg(long, value_name = "N")]
    batch: Option<usize>,

    /// Parts that a step is computed in
    #[arg(long, value_name = "N")]
    accumulate: Option<usize>,

    /// Save memory: compute the insides of each block a second time for the backward pass
    #[arg(long)]
    checkpoint_activations: bool,

    /// What the float products take their operands in, those of the backward pass among them: f32, or bf16 where the device
    /// has such products; weights, optimizer and sums are f32 in any case
    #[arg(long, value_name = "TYPE")]
    precision: Option<PrecisionChoice>,

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

    /// What the losses of a step's targets become: mean or sum
    #[arg(long, value_name = "WHAT")]
    loss_reduction: Option<Reduction>,

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

impl StepArgs {
    /// Changes a recipe, and checks what has become of it.
    pub fn change(self, recipe: &mut Recipe) -> Result<(), CliError> {
        if let Some(seconds) = self.max_seconds {
            recipe.run.max_seconds = seconds;
            // A limit that nobody asked for does not end a run before its time.
            (recipe.run.max_steps, recipe.run.epochs) = (0, 0.0);
        }
        if let Some(epochs) = self.epochs {
            (recipe.run.max_steps, recipe.run.epochs) = (0, epochs);
        }
        if self.max_steps.is_some() {
            recipe.run.epochs = 0.0;
        }
        let (batch, optimizer, run) = (&mut recipe.batch, &mut recipe.optimizer, &mut recipe.run);
        set(&mut run.max_steps, self.max_steps);
        set(&mut recipe.seed, self.seed);
        set(&mut batch.rows, self.batch);
        set(&mut batch.accumulate, self.accumulate);
        set(&mut batch.reduction, self.loss_reduction);
        batch.checkpoint_activations |= self.checkpoint_activations;
        set(&mut batch.precision, self.precision);
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
        recipe.check().map_err(|error| CliError::Usage(error.to_string()))
    }
}

/// Changes a setting, if it is to be changed.
pub fn set<T>(setting: &mut T, wanted: Option<T>) {
    if let Some(wanted) = wanted {
        *setting = wanted;
    }
}
