//! Checkpoints in Hugging Face folders.

use std::collections::BTreeMap;

use bitnet_ternary::quantize::already_ternary;

use super::open::Parts;
use super::{Checkpoint, Container, Metadata};
use crate::blob::{Blob, Folder};
use crate::config::from_hugging_face;
use crate::names::canonical_hf;
use crate::tokenizer::{HfFiles, open_json};
use crate::{FormatError, TensorInfo, safetensors};

/// Opens one safetensors file with the `config.json` beside it.
pub(super) fn open_file(folder: &Folder<'_>, name: &str) -> Result<Checkpoint, FormatError> {
    let blob = folder.open(name)?;
    let header = safetensors::parse(&blob)?;
    assemble(folder, vec![(blob, header)])
}

/// Opens the shards of an index with the `config.json` beside it.
pub(super) fn open_index(folder: &Folder<'_>, name: &str) -> Result<Checkpoint, FormatError> {
    assemble(folder, safetensors::open_index(folder, name)?)
}

fn assemble(folder: &Folder<'_>, shards: Vec<(Blob, safetensors::Header)>) -> Result<Checkpoint, FormatError> {
    let path = folder.path("config.json");
    let config_json = open_json(folder, "config.json")?.ok_or_else(|| {
        FormatError::not_a_model(&path, "missing: it belongs beside the safetensors file and says how to read it")
    })?;
    let hf_files = HfFiles::open(folder)?;
    let generation_path = folder.path("generation_config.json");
    let generation = hf_files.generation_config().map(|json| (generation_path.as_path(), json));
    let config = from_hugging_face(&path, &config_json, generation)?;

    let (mut files, mut tensors, mut metadata) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (index, (blob, header)) in shards.into_iter().enumerate() {
        tensors.extend(header.tensors.into_iter().map(|tensor| TensorInfo {
            name: canonical_hf(&tensor.name),
            stored_name: tensor.name,
            dtype: tensor.dtype,
            shape: tensor.shape,
            bytes: tensor.bytes as u64,
            offset: tensor.offset as u64,
            file: index,
            interleaved_heads: None,
        }));
        metadata.extend(header.metadata);
        files.push(blob);
    }
    let mut checkpoint = Parts {
        container: Container::Safetensors,
        files,
        tensors,
        config,
        metadata: Metadata::HuggingFace { config: config_json, header: metadata },
        hf_files,
        notes: Vec::new(),
    }
    .assemble()?;
    if checkpoint.config.activation_bits.is_none() {
        settle_activation_bits(&mut checkpoint)?;
    }
    Ok(checkpoint)
}

/// Decides about activations where `config.json` says nothing of BitNet: see
/// [`ModelConfig::activation_bits`](crate::ModelConfig::activation_bits).
fn settle_activation_bits(checkpoint: &mut Checkpoint) -> Result<(), FormatError> {
    let norm_before_linear = checkpoint.tensors().any(|t| t.name.ends_with("_proj.norm.weight"));
    // K is the smallest of the linears.
    const SAMPLE: &str = "model.layers.0.self_attn.k_proj.weight";
    let sample = checkpoint.info(SAMPLE).filter(|info| info.dtype.is_readable_as_float());
    if !norm_before_linear && let Some(info) = sample {
        let (rows, cols) = info.rows_cols();
        if already_ternary(&checkpoint.floats(SAMPLE)?, rows, cols).is_some() {
            checkpoint.notes.push(
                "config.json says nothing of BitNet and the float weights are ternary already: activations stay floats"
                    .to_string(),
            );
            return Ok(());
        }
        checkpoint.notes.push(
            "config.json says nothing of BitNet and the weights are plain floats: they are taken for BitNet masters and \
             quantized"
                .to_string(),
        );
    }
    checkpoint.config.activation_bits = Some(8);
    Ok(())
}
