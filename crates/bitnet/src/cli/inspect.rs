//! `bitnet inspect`.

use std::io::{Write, stdout};

use bitnet::engine::tokenizer_of;
use bitnet::format::{Checkpoint, Container, RopeScaling, StorageType, TensorInfo};
use bitnet::text::{TemplateOrigin, Tokenizer};
use clap::Args;
use serde_json::{Value, json};

use super::CliError;
use super::check::check;
use super::model_args::ModelArgs;
use super::note::spelled_out;

/// Metadata arrays longer than this are cut (a vocabulary has 128,256 entries).
const LONGEST_ARRAY: usize = 8;

#[derive(Args)]
pub struct Inspect {
    #[command(flatten)]
    model: ModelArgs,

    /// Run a short English text through the model instead, under each layout of I2_S, and say which one gives sense
    #[arg(long)]
    check: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Parameters and the bits that they take.
#[derive(Default)]
struct Counts {
    parameters: u64,
    ternary_parameters: u64,
    bytes: u64,
    ternary_bytes: u64,
}

impl Counts {
    fn of(checkpoint: &Checkpoint) -> Self {
        let mut counts = Self::default();
        for tensor in checkpoint.tensors() {
            counts.bytes += tensor.bytes;
            if is_scale(tensor) {
                continue;
            }
            let parameters = parameters(checkpoint, tensor);
            counts.parameters += parameters;
            if is_packed(checkpoint, tensor) {
                counts.ternary_parameters += parameters;
                counts.ternary_bytes += tensor.bytes;
            }
        }
        counts
    }

    fn bits_per_weight(bytes: u64, parameters: u64) -> f64 {
        if parameters == 0 { 0.0 } else { 8.0 * bytes as f64 / parameters as f64 }
    }
}

fn is_scale(tensor: &TensorInfo) -> bool {
    tensor.name.ends_with(".weight_scale") || tensor.name.ends_with(".scale")
}

/// A packed Hugging Face linear has four rows in each stored one.
fn is_hf_packed(checkpoint: &Checkpoint, tensor: &TensorInfo) -> bool {
    tensor.dtype == StorageType::U8 && checkpoint.info(&format!("{}_scale", tensor.name)).is_some()
}

/// A linear of a burnpack file has sixteen columns in each word, and no more in the last one of a row than there are.
fn is_words(checkpoint: &Checkpoint, tensor: &TensorInfo) -> bool {
    checkpoint.source().container == Container::Burnpack && tensor.dtype == StorageType::U32
}

fn is_packed(checkpoint: &Checkpoint, tensor: &TensorInfo) -> bool {
    matches!(tensor.dtype, StorageType::Ternary(_)) || is_hf_packed(checkpoint, tensor) || is_words(checkpoint, tensor)
}

fn parameters(checkpoint: &Checkpoint, tensor: &TensorInfo) -> u64 {
    let stored = tensor.elements() as u64;
    if is_words(checkpoint, tensor) {
        let config = checkpoint.config();
        let cols = match &tensor.name {
            name if name.ends_with("down_proj.weight") => config.intermediate_size,
            name if name.ends_with("o_proj.weight") => config.num_heads * config.head_dim,
            _ => config.hidden_size,
        };
        return tensor.shape.first().map_or(0, |rows| *rows as u64 * cols as u64);
    }
    if is_hf_packed(checkpoint, tensor) { 4 * stored } else { stored }
}

impl Inspect {
    pub fn run(self) -> Result<(), CliError> {
        if self.check {
            return check(&self.model, self.json);
        }
        let checkpoint = self.model.open()?;
        let tokenizer = tokenizer_of(&checkpoint, self.model.tokenizer_json());
        let counts = Counts::of(&checkpoint);
        let text = if self.json {
            json_report(&checkpoint, &tokenizer, &counts).to_string()
        } else {
            text_report(&checkpoint, &tokenizer, &counts)
        };
        writeln!(stdout(), "{}", text.trim_end())?;
        Ok(())
    }
}

fn json_report(checkpoint: &Checkpoint, tokenizer: &Result<Tokenizer, bitnet::Error>, counts: &Counts) -> Value {
    let config = checkpoint.config();
    let tensors = checkpoint.tensors().map(|t| {
        json!({
            "name": t.name, "stored_name": t.stored_name, "type": t.dtype.to_string(), "shape": t.shape, "bytes": t.bytes,
        })
    });
    let tokenizer = match tokenizer {
        Err(error) => json!({ "error": error.to_string() }),
        Ok(tokenizer) => json!({
            "vocab_size": tokenizer.vocab_size(),
            "bos": tokenizer.bos(),
            "stop_tokens": tokenizer.stop_tokens(),
            "chat_template": tokenizer.chat_template().map(|t| t.source()),
            "chat_template_error": tokenizer.chat_template_error().map(|e| e.to_string()),
            "chat_template_origin": tokenizer.chat_template().map(|t| origin(t.origin())),
        }),
    };
    json!({
        "container": format!("{:?}", checkpoint.source().container).to_lowercase(),
        "files": checkpoint.source().files.iter().map(|f| json!({ "path": f.path, "bytes": f.bytes })).collect::<Vec<_>>(),
        "config": {
            "architecture": config.architecture,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_layers": config.num_layers,
            "num_heads": config.num_heads,
            "num_kv_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            "vocab_size": config.vocab_size,
            "context_length": config.context_length,
            "rope_theta": config.rope_theta,
            "rope_dim": config.rope_dim,
            "rope_scaling": rope_scaling(&config.rope_scaling),
            "rms_norm_eps": config.rms_norm_eps,
            "activation": format!("{:?}", config.activation).to_lowercase(),
            "activation_bits": config.activation_bits,
            "weight_scale": format!("{:?}", config.weight_scale).to_lowercase(),
            "tie_word_embeddings": config.tie_word_embeddings,
        },
        "metadata": checkpoint.metadata().to_json(LONGEST_ARRAY),
        "notes": checkpoint.notes(),
        "tokenizer": tokenizer,
        "parameters": counts.parameters,
        "ternary_parameters": counts.ternary_parameters,
        "bytes": counts.bytes,
        "bits_per_ternary_weight": Counts::bits_per_weight(counts.ternary_bytes, counts.ternary_parameters),
        "bits_per_weight": Counts::bits_per_weight(counts.bytes, counts.parameters),
        "tensors": tensors.collect::<Vec<_>>(),
    })
}

fn origin(origin: TemplateOrigin) -> &'static str {
    match origin {
        TemplateOrigin::Checkpoint => "the checkpoint",
        TemplateOrigin::BuiltIn => "built in",
    }
}

fn rope_scaling(scaling: &RopeScaling) -> Value {
    match scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
            "type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor, "original_context": original_context,
        }),
        RopeScaling::Factors(factors) => json!({ "type": "factors", "factors": factors }),
    }
}

fn text_report(checkpoint: &Checkpoint, tokenizer: &Result<Tokenizer, bitnet::Error>, counts: &Counts) -> String {
    let config = checkpoint.config();
    let mut lines = Vec::new();
    for file in &checkpoint.source().files {
        lines.push(format!("{} ({} bytes)", file.path.display(), file.bytes));
    }
    lines.push(format!(
        "{}: {} layers, hidden {}, MLP {}, {} heads of {} over {} KV heads, vocabulary {}, context {}",
        config.architecture,
        config.num_layers,
        config.hidden_size,
        config.intermediate_size,
        config.num_heads,
        config.head_dim,
        config.num_kv_heads,
        config.vocab_size,
        config.context_length,
    ));
    lines.push(format!(
        "{} parameters, {} of them ternary at {:.2} bits; {} bytes of tensors, {:.2} bits a parameter",
        counts.parameters,
        counts.ternary_parameters,
        Counts::bits_per_weight(counts.ternary_bytes, counts.ternary_parameters),
        counts.bytes,
        Counts::bits_per_weight(counts.bytes, counts.parameters),
    ));
    match tokenizer {
        Err(error) => lines.push(format!("tokenizer: {error}")),
        Ok(tokenizer) => {
            let name = |id: &u32| format!("{id} {:?}", tokenizer.token(*id).unwrap_or_default());
            let stops: Vec<_> = tokenizer.stop_tokens().iter().map(name).collect();
            lines.push(format!(
                "tokenizer: {} tokens, begins with {}, stops at {}",
                tokenizer.vocab_size(),
                tokenizer.bos().as_ref().map_or("nothing".to_string(), name),
                if stops.is_empty() { "nothing".to_string() } else { stops.join(", ") },
            ));
            match (tokenizer.chat_template(), tokenizer.chat_template_error()) {
                (Some(template), _) => {
                    lines.push(format!(
                        "chat template ({}): {}",
                        origin(template.origin()),
                        template.source().trim_end()
                    ));
                }
                (None, Some(error)) => lines.push(format!("chat template: {error}")),
                (None, None) => lines.push("chat template: none".to_string()),
            }
        }
    }
    lines.extend(checkpoint.notes().iter().map(|note| format!("note: {note}")));
    lines.push(String::new());
    lines.push("metadata".to_string());
    let metadata = checkpoint.metadata().to_json(LONGEST_ARRAY);
    lines.extend(metadata.as_object().into_iter().flatten().map(|(key, value)| format!("  {key} = {value}")));
    lines.push(String::new());
    lines.push("tensors".to_string());
    for t in checkpoint.tensors() {
        lines.push(format!(
            "  {:56} {:8} {:20} {:>12}",
            t.name,
            t.dtype.to_string(),
            format!("{:?}", t.shape),
            t.bytes
        ));
    }
    let lines: Vec<_> = lines.iter().map(|line| spelled_out(line)).collect();
    lines.join("\n")
}
