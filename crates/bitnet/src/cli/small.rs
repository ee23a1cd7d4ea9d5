//! Commands of a few lines: `tokenize`, `devices`, `completions`.

use std::io::{Write, stdout};

use bitnet::engine::tokenizer_of;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::CliError;
use super::model_args::ModelArgs;

#[derive(Args)]
pub struct Tokenize {
    /// The text
    text: String,

    #[command(flatten)]
    model: ModelArgs,

    /// Leave out the beginning-of-text token
    #[arg(long)]
    no_bos: bool,

    /// Print the ids as a JSON array
    #[arg(long)]
    json: bool,
}

impl Tokenize {
    pub fn run(self) -> Result<(), CliError> {
        let tokenizer = tokenizer_of(&self.model.open()?, self.model.tokenizer_json())?;
        let ids = tokenizer.encode(&self.text, !self.no_bos)?;
        let mut out = stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::json!(ids))?;
        } else {
            for id in ids {
                writeln!(out, "{id:>7}  {:?}", tokenizer.token(id).unwrap_or_default())?;
            }
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct Devices {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl Devices {
    pub fn run(self) -> Result<(), CliError> {
        let devices = bitnet::model::devices().map_err(bitnet::model::ModelError::from).map_err(bitnet::Error::from)?;
        let mut out = stdout().lock();
        if self.json {
            let devices = devices
                .iter()
                .map(|d| serde_json::json!({ "name": d.name, "kernels": d.kernels, "natively": d.natively }));
            writeln!(out, "{}", devices.collect::<serde_json::Value>())?;
        } else {
            for device in devices {
                let natively = device.natively.iter().map(|what| format!(", {what}")).collect::<String>();
                writeln!(out, "{:8} {}{natively}", device.name, device.kernels)?;
            }
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub fn run<C: CommandFactory>(self) -> Result<(), CliError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut C::command(), "bitnet", &mut script);
        Ok(stdout().write_all(&script)?)
    }
}
