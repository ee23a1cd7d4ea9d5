//! The flags that change a recipe.

use std::path::PathBuf;

use bitnet::training::recipe::{Recipe, ScaleChoice, Size, StorageChoice, TokenizerChoice, WeightsChoice};
use bitnet::training::schedule::LambdaSchedule;
use clap::Args;

use crate::cli::CliError;
use crate::cli::run::{StepArgs, set};

/// A recipe: that of a size or of a file, with some settings changed.
#[derive(Args)]
pub struct RecipeArgs {
    /// A ready-made network with its recipe: tiny, 10m, 30m or 100m [default: tiny]
    #[arg(long, conflicts_with = "recipe")]
    size: Option<Size>,

    /// A recipe file; `recipe.toml` of any run is one
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,

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

    /// How far values are quantized over the run: one, or linear:over=STEPS (or a share of the run such as 40%)
    #[arg(long, value_name = "SCHEDULE")]
    lambda: Option<LambdaSchedule>,

    /// Leave out the norms before o_proj and down_proj
    #[arg(long)]
    no_subln: bool,

    /// Put an RMSNorm before each linear's quantizer
    #[arg(long)]
    norm_inside: bool,

    /// Positions in a row, and the model's context
    #[arg(long, value_name = "N")]
    context: Option<usize>,

    /// What embedding and head are stored in: f32, f16 or bf16
    #[arg(long, value_name = "TYPE")]
    embedding: Option<StorageChoice>,

    #[command(flatten)]
    steps: StepArgs,
}

fn act_bits(text: &str) -> Result<u8, String> {
    match text {
        "8" => Ok(8),
        "none" => Ok(0),
        _ => Err("8 or none".to_string()),
    }
}

impl RecipeArgs {
    /// Whether how values are quantized is left to a ready-made recipe.
    pub fn is_ready_made(&self) -> bool {
        self.recipe.is_none() && self.lambda.is_none()
    }

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
        let (model, quantization) = (&mut recipe.model, &mut recipe.quantization);
        set(&mut recipe.tokenizer, self.tokenizer);
        set(&mut quantization.weights, self.quant);
        set(&mut quantization.scale, self.scale);
        set(&mut quantization.act_bits, self.act_bits);
        set(&mut quantization.lambda, self.lambda);
        model.sub_norms &= !self.no_subln;
        model.inner_norms |= self.norm_inside;
        set(&mut model.context, self.context);
        set(&mut model.embedding, self.embedding);
        self.steps.change(&mut recipe)?;
        Ok(recipe)
    }
}
