//! `bitnet export`.

use std::io::{Write, stdout};
use std::path::PathBuf;

use bitnet::model::DeviceKind;
use bitnet::training::{ExportFormat, Packing, Trained};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::convert::refuse_target;
use super::{CliError, note};

/// Writes a checkpoint of a run as a file that runs.
///
/// Prints the loss over what the run held out, before: of the model in training, and after: of the file, opened and run.
#[derive(Args)]
pub struct Export {
    /// The folder of a run, whose latest checkpoint is written, or a checkpoint in one
    run: PathBuf,

    /// The file, or the folder for a Hugging Face form
    out: PathBuf,

    /// What is written
    #[arg(long, value_enum)]
    to: Form,

    /// The checkpoint of this step
    #[arg(long, value_name = "N")]
    step: Option<u64>,

    /// Replace what is there
    #[arg(long)]
    overwrite: bool,

    /// Where to measure the loss: see `bitnet devices`
    #[arg(long, default_value = DeviceKind::default_name())]
    device: String,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    /// GGUF for bitnet.cpp
    #[value(name = "i2_s")]
    I2S,
    /// GGUF for llama.cpp, 1.7 bits a weight
    #[value(name = "tq1_0")]
    Tq1_0,
    /// GGUF for llama.cpp, 2.1 bits a weight
    #[value(name = "tq2_0")]
    Tq2_0,
    /// GGUF for ik_llama.cpp, 2 bits a weight
    #[value(name = "iq2_bn")]
    Iq2Bn,
    /// The same, 1.6 bits a weight
    #[value(name = "iq1_bn")]
    Iq1Bn,
    /// A folder for transformers, trits packed, `linear_class` autobitlinear
    HfPacked,
    /// The same with `linear_class` bitlinear
    HfBitlinear,
    /// A folder for transformers with the float weights behind the trits, to be trained further
    HfMaster,
    /// A file of Burn's own, trits packed
    Burnpack,
}

impl Form {
    fn format(self) -> ExportFormat {
        match self {
            Form::I2S => ExportFormat::Gguf(Packing::I2S),
            Form::Tq1_0 => ExportFormat::Gguf(Packing::Tq1_0),
            Form::Tq2_0 => ExportFormat::Gguf(Packing::Tq2_0),
            Form::Iq2Bn => ExportFormat::Gguf(Packing::Iq2Bn),
            Form::Iq1Bn => ExportFormat::Gguf(Packing::Iq1Bn),
            Form::HfPacked => ExportFormat::HfPacked,
            Form::HfBitlinear => ExportFormat::HfPackedBitLinear,
            Form::HfMaster => ExportFormat::HfMaster,
            Form::Burnpack => ExportFormat::Burnpack,
        }
    }

    /// What the name of such a file ends in.
    fn ending(self) -> Option<&'static str> {
        match self.format() {
            ExportFormat::Gguf(_) => Some("gguf"),
            ExportFormat::Burnpack => Some("bpk"),
            _ => None,
        }
    }
}

impl Export {
    pub fn run(self) -> Result<(), CliError> {
        refuse_target(&self.out, self.overwrite, self.to.ending())?;
        let trained = Trained::open(&self.run, self.step, &bitnet::model::device(&self.device)?)?;
        let held_out = trained.held_out()?;
        let before = held_out.as_ref().map(|corpus| trained.loss(corpus)).transpose()?;
        trained.export(self.to.format(), &self.out, self.overwrite)?;
        let after = held_out.as_ref().map(|corpus| trained.loss_of_file(&self.out, corpus)).transpose()?;
        let tokens = held_out.as_ref().map(|corpus| corpus.loss_targets());
        if held_out.is_none() {
            let cache = trained.folder.cache();
            note(format_args!("no loss: the held-out tokens of the run are not in {}", cache.display()));
        }
        if self.json {
            let form = self.to.to_possible_value();
            let line = json!({
                "step": trained.state.step,
                "format": form.as_ref().map(|form| form.get_name()),
                "path": self.out,
                "tokens": tokens,
                "loss_before": before,
                "loss_after": after,
            });
            writeln!(stdout(), "{line}")?;
        } else {
            let step = trained.state.step;
            writeln!(stdout(), "{}: the model after step {step}", self.out.display())?;
            if let (Some(before), Some(after), Some(tokens)) = (before, after, tokens) {
                writeln!(stdout(), "loss over {tokens} held-out tokens: {before:.6} nats before, {after:.6} after")?;
            }
        }
        Ok(())
    }
}
