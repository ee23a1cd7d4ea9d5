//! Which model a command takes in that does not run it.

use std::path::Path;

use bitnet::format::{Checkpoint, Metadata, OpenOptions};
use bitnet::{EMBEDDED, LoadOptions};
use clap::Args;

use super::CliError;
use super::downloads::fetch_with_bar;
use super::model_args::{ActivationArg, I2sArg};

#[derive(Args)]
pub struct SourceArgs {
    /// A folder, a .safetensors, .gguf or .bpk file, or org/name[@revision][:file] on the Hugging Face Hub
    #[arg(value_name = "IN")]
    model: String,

    /// Order of the codes in I2_S tensors, for files that a broken build has written
    #[arg(long, value_enum, default_value_t = I2sArg::Block128)]
    i2s_layout: I2sArg,

    /// Function of the MLP's gate, where the model file says a wrong one or none
    #[arg(long, value_enum)]
    activation: Option<ActivationArg>,

    /// Do not ask the network
    #[arg(long)]
    offline: bool,
}

impl SourceArgs {
    /// Opens the model, downloaded first if it has to be.
    pub fn open(&self) -> Result<Checkpoint, CliError> {
        let spec = match self.model.as_str() {
            EMBEDDED if !Path::new(EMBEDDED).exists() => EMBEDDED.to_string(),
            spec => fetch_with_bar(spec, self.offline)?.to_string_lossy().into_owned(),
        };
        let open =
            OpenOptions { i2s_layout: self.i2s_layout.into(), activation: self.activation.map(ActivationArg::into) };
        Ok(bitnet::open(&spec, &LoadOptions { open, offline: self.offline, ..LoadOptions::default() })?)
    }

    /// What the model calls itself, else the name of its folder or file.
    pub fn model_name(&self, checkpoint: &Checkpoint) -> String {
        if let Metadata::Gguf(metadata) = checkpoint.metadata()
            && let Some(name) = metadata.get("general.name").and_then(|name| name.as_str())
        {
            return name.to_string();
        }
        let is_hub_name = !Path::new(&self.model).exists();
        let path = Path::new(&self.model);
        let stem = if path.is_dir() || is_hub_name { path.file_name() } else { path.file_stem() };
        stem.map_or_else(|| self.model.clone(), |name| name.to_string_lossy().into_owned())
    }
}
