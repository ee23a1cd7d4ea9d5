//! `bitnet finetune`.

use std::path::PathBuf;

use bitnet::training::RunFolder;
use bitnet::training::data::Source;
use bitnet::training::recipe::{LoraRecipe, Recipe};
use clap::Args;

use super::CliError;
use super::run::{FromModel, RunArgs, StepArgs, set};

/// Trains a ternary model further: on conversations, of which it learns what the assistant says, or on text.
///
/// It keeps its network and its tokenizer. The folder gets what `bitnet train` leaves in one. A conversation is a line
/// {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]} of a .jsonl file.
#[derive(Args)]
pub struct Finetune {
    /// Conversations or texts (.jsonl, .parquet), text (.txt, .md), or folders of them
    #[arg(required = true)]
    data: Vec<PathBuf>,

    /// The model: embedded, a folder, a .safetensors or .gguf file, or org/name[@revision][:file] on the Hugging Face Hub
    #[arg(short, long, required_unless_present = "resume")]
    model: Option<String>,

    #[command(flatten)]
    from: FromModel,

    /// Learn which of two replies is better, from lines {"prompt": ..., "chosen": ..., "rejected": ...} (DPO)
    #[arg(long)]
    dpo: bool,

    /// How strongly DPO holds the model to where it began [default: 0.1]
    #[arg(long, requires = "dpo", value_name = "BETA")]
    beta: Option<f64>,

    /// Train only a low-rank adapter of this rank beside the trits: DIR/adapter, for `bitnet generate --lora`
    #[arg(long, value_name = "RANK", value_parser = clap::value_parser!(u16).range(1..))]
    lora: Option<u16>,

    /// What the adapter is multiplied by, times its rank [default: twice the rank]
    #[arg(long, requires = "lora", value_name = "ALPHA")]
    lora_alpha: Option<f64>,

    #[command(flatten)]
    steps: StepArgs,

    #[command(flatten)]
    run: RunArgs,
}

impl Finetune {
    pub fn run(self) -> Result<(), CliError> {
        let source = Source { paths: self.data, separator: self.from.separator.clone() };
        let before = RunFolder::new(&self.run.out);
        let mut recipe = match &self.model {
            _ if self.run.resume && before.is_begun() => before.read_recipe()?,
            Some(model) => {
                let path = self.from.locate(model, &self.run.out)?;
                match self.dpo {
                    true => Recipe::to_prefer(&path)?,
                    false => Recipe::to_finetune(&path, &source)?,
                }
            }
            None => return Err(CliError::Usage("--model: which model is to be trained further?".to_string())),
        };
        self.from.change(&mut recipe)?;
        if let Some(rank) = self.lora {
            let alpha = self.lora_alpha.unwrap_or(2.0 * f64::from(rank));
            recipe.lora = Some(LoraRecipe { rank: rank.into(), alpha });
        }
        if let Some(preference) = &mut recipe.preference {
            set(&mut preference.beta, self.beta);
        }
        self.steps.change(&mut recipe)?;
        self.run.run(source, recipe)
    }
}
