//! `bitnet distill`.

use std::path::PathBuf;

use bitnet::training::RunFolder;
use bitnet::training::data::Source;
use bitnet::training::recipe::Recipe;
use bitnet::training::schedule::LambdaSchedule;
use clap::Args;

use super::CliError;
use super::run::{FromModel, RunArgs, StepArgs, set};

/// Makes a ternary model of a float one: its weights are quantized little by little, while it learns the data and what the
/// float model, its teacher, says of it.
///
/// The folder gets what `bitnet train` leaves in one. A short run makes a model that speaks, not one that knows what its
/// teacher does: that takes billions of tokens.
#[derive(Args)]
pub struct Distill {
    /// Text (.txt, .md), conversations or texts (.jsonl, .parquet), or folders of them
    #[arg(required = true)]
    data: Vec<PathBuf>,

    /// The float model: a folder or .safetensors file, or org/name[@revision] on the Hugging Face Hub
    #[arg(long, value_name = "MODEL", required_unless_present = "resume")]
    teacher: Option<String>,

    #[command(flatten)]
    from: FromModel,

    /// Weight of the next token in the loss [default: 0.5]
    #[arg(long, value_name = "WEIGHT")]
    ce: Option<f64>,

    /// Weight of the divergence from the teacher's distribution [default: 0.5]
    #[arg(long, value_name = "WEIGHT")]
    kl: Option<f64>,

    /// Temperature of both distributions [default: 2]
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,

    /// Weight of the divergence of attention relations; 10 to 100 is usual [default: 0]
    #[arg(long, value_name = "WEIGHT")]
    relations: Option<f64>,

    /// The layer whose relations these are, from 0 [default: three quarters up]
    #[arg(long, value_name = "N")]
    layer: Option<usize>,

    /// How far values are quantized over the run: one, or linear:over=STEPS [default: linear:over=10%]
    #[arg(long, value_name = "SCHEDULE")]
    lambda: Option<LambdaSchedule>,

    /// Put no norms before o_proj and down_proj
    #[arg(long)]
    no_subln: bool,

    #[command(flatten)]
    steps: StepArgs,

    #[command(flatten)]
    run: RunArgs,
}

impl Distill {
    pub fn run(self) -> Result<(), CliError> {
        let source = Source { paths: self.data, separator: self.from.separator.clone() };
        let before = RunFolder::new(&self.run.out);
        let mut recipe = match &self.teacher {
            _ if self.run.resume && before.is_begun() => before.read_recipe()?,
            Some(teacher) => {
                let mut recipe = Recipe::to_distill(&self.from.locate(teacher, &self.run.out)?, &source)?;
                recipe.model.sub_norms = !self.no_subln;
                recipe
            }
            None => return Err(CliError::Usage("--teacher: which model is the teacher?".to_string())),
        };
        self.from.change(&mut recipe)?;
        set(&mut recipe.quantization.lambda, self.lambda);
        if let Some(distillation) = &mut recipe.distillation {
            set(&mut distillation.likelihood, self.ce);
            set(&mut distillation.logits, self.kl);
            set(&mut distillation.temperature, self.temperature);
            set(&mut distillation.relations, self.relations);
            set(&mut distillation.layer, self.layer);
        }
        self.steps.change(&mut recipe)?;
        self.run.run(source, recipe)
    }
}
