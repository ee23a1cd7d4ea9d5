//! `bitnet repair`.

use std::io::{Write, stdout};
use std::path::PathBuf;

use bitnet::format::{Checkpoint, Metadata, convert};
use bitnet::repairs;
use clap::Args;
use serde_json::json;

use super::bar::Bar;
use super::convert::refuse_target;
use super::note::spelled_out;
use super::source_args::SourceArgs;
use super::{CliError, note};

/// Longer texts and lists are cut where the changes are shown.
const SHOWN: usize = 60;

/// Writes a GGUF file again with right metadata: pre-tokenizer, chat template, the token that ends a turn, activation.
///
/// The official file of BitNet b1.58 2B-4T lacks all of them, and other programs guess them wrong. Tensors are copied, byte
/// for byte.
#[derive(Args)]
pub struct Repair {
    #[command(flatten)]
    source: SourceArgs,

    /// The file
    out: PathBuf,

    /// Replace what is there
    #[arg(long)]
    overwrite: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Repair {
    pub fn run(self) -> Result<(), CliError> {
        refuse_target(&self.out, self.overwrite, Some("gguf"))?;
        let source = self.source.open()?;
        let changes = repairs(&source)?;
        if changes.is_empty() {
            return Err(CliError::Usage("nothing is known to be wrong with this file; nothing is written".to_string()));
        }
        let bar = Bar::new();
        let bytes = convert::repair(&source, &changes, &self.out, self.overwrite, &|progress| bar.show(progress))?;
        drop(bar);
        let before = |key: &str| metadata(&source).and_then(|metadata| metadata.get(key)).map(|value| value.to_json(2));
        if self.json {
            let changes = changes
                .iter()
                .map(|(key, value)| json!({ "key": key, "before": before(key), "after": value.to_json(2) }));
            let line = json!({ "path": self.out, "bytes": bytes, "changes": changes.collect::<Vec<_>>() });
            return Ok(writeln!(stdout(), "{line}")?);
        }
        for (key, value) in &changes {
            let before = before(key).map_or("nothing".to_string(), |value| short(&value));
            note(format_args!("{key}: {} in place of {before}", short(&value.to_json(2))));
        }
        let (count, out) = (changes.len(), self.out.display());
        Ok(writeln!(stdout(), "{out}: {bytes} bytes, {count} keys mended, tensors the same to the byte")?)
    }
}

fn metadata(source: &Checkpoint) -> Option<&bitnet::format::gguf::Metadata> {
    match source.metadata() {
        Metadata::Gguf(metadata) => Some(metadata),
        Metadata::HuggingFace { .. } | Metadata::Burnpack { .. } => None,
    }
}

fn short(value: &serde_json::Value) -> String {
    let text = spelled_out(&value.to_string());
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
