//! Checkpoints in GGUF files.

use bitnet_ternary::Packing;

use super::open::{OpenOptions, Parts, split_name};
use super::{Checkpoint, Container, Metadata};
use crate::blob::{Blob, Folder};
use crate::config::{TensorFacts, architecture, from_gguf, has_interleaved_rope};
use crate::names::{ROPE_FREQS, gguf_to_hf, is_two_sided, two_sided_gguf_to_hf};
use crate::tokenizer::HfFiles;
use crate::{FormatError, ModelConfig, StorageType, TensorInfo, gguf};

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Opens a file, and its siblings when the model is split.
pub(super) fn open(folder: &Folder<'_>, name: &str, options: &OpenOptions) -> Result<Checkpoint, FormatError> {
    let blob = folder.open(name)?;
    let header = gguf::parse(blob.path(), blob.bytes())?;
    let (files, mut headers): (Vec<Blob>, Vec<gguf::Header>) = match split_count(&blob, &header)? {
        0 | 1 => (vec![blob], vec![header]),
        count => open_split(folder, name, &blob, count)?.into_iter().unzip(),
    };
    let metadata = std::mem::take(&mut headers[0].metadata);
    let file = files[0].path().to_path_buf();
    let interleaved = has_interleaved_rope(architecture(&file, &metadata)?);

    let two_sided = headers.iter().flat_map(|header| &header.table.tensors).any(|tensor| is_two_sided(&tensor.name));
    let name_of = if two_sided { two_sided_gguf_to_hf } else { gguf_to_hf };
    let mut tensors = Vec::new();
    for (index, (blob, header)) in files.iter().zip(headers).enumerate() {
        let placed = gguf::tensors(blob.path(), &metadata, header.table, blob.bytes().len(), options.i2s_layout)?;
        tensors.extend(placed.into_iter().map(|tensor| TensorInfo {
            name: name_of(&tensor.name).unwrap_or_else(|| tensor.name.clone()),
            stored_name: tensor.name,
            dtype: tensor.dtype,
            shape: tensor.shape,
            bytes: tensor.bytes as u64,
            offset: tensor.offset as u64,
            file: index,
            interleaved_heads: None,
        }));
    }

    let find = |name: &str| tensors.iter().find(|t| t.name == name);
    let rope_factors = match find(ROPE_FREQS) {
        None => None,
        Some(info) => Some(rope_factors(&files[info.file], info)?),
    };
    let is_weight_only = |t: &TensorInfo| {
        t.name.ends_with("_proj.weight") && matches!(t.dtype, StorageType::Ternary(Packing::Q2_0 { .. }))
    };
    let facts = TensorFacts {
        embedding_rows: find(EMBEDDING).and_then(|t| t.shape.first().copied()),
        has_head: find(HEAD).is_some(),
        rope_factors,
        weight_only: tensors.iter().any(is_weight_only)
            && !tensors.iter().any(|t| t.name.ends_with("_proj.norm.weight")),
    };
    let config = from_gguf(&file, &metadata, facts)?;

    if interleaved {
        for info in &mut tensors {
            let heads = match &info.name {
                name if name.ends_with(".self_attn.q_proj.weight") => config.num_heads,
                name if name.ends_with(".self_attn.k_proj.weight") => config.num_kv_heads,
                _ => continue,
            };
            let (rows, _) = info.rows_cols();
            if !rows.is_multiple_of(2 * heads) {
                let reason = format!("has {rows} rows, which are not {heads} heads of even width");
                return Err(FormatError::tensor(files[info.file].path(), &info.stored_name, reason));
            }
            info.interleaved_heads = Some(heads);
        }
    }
    let mut notes = notes(&metadata, &tensors);
    notes.extend(doubtful_pooling(&metadata, &config, &tensors));
    Parts {
        container: Container::Gguf,
        files,
        tensors,
        config,
        metadata: Metadata::Gguf(metadata),
        hf_files: HfFiles::default(),
        notes,
    }
    .assemble()
}

/// `split.count`, 0 when absent.
fn split_count(blob: &Blob, header: &gguf::Header) -> Result<u32, FormatError> {
    const KEY: &str = "split.count";
    match header.metadata.get(KEY) {
        None => Ok(0),
        Some(value) => value
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n <= 99_999)
            .ok_or_else(|| FormatError::config(blob.path(), KEY, "is not a number of files")),
    }
}

/// All files of a split model in order; the first has the metadata.
fn open_split(
    folder: &Folder<'_>,
    name: &str,
    blob: &Blob,
    count: u32,
) -> Result<Vec<(Blob, gguf::Header)>, FormatError> {
    let stem = match split_name(name) {
        Some((stem, _, of)) if of == count => stem,
        _ => {
            let reason = format!(
                "one of {count} parts of a model, but its name does not end in -00001-of-{count:05}.gguf, so the others \
                 cannot be found"
            );
            return Err(FormatError::not_a_model(blob.path(), reason));
        }
    };
    let mut parts = Vec::new();
    for number in 1..=count {
        let part = format!("{stem}-{number:05}-of-{count:05}.gguf");
        let blob = folder.open_optional(&part)?.ok_or_else(|| {
            FormatError::not_a_model(&folder.path(name), format!("part {number} of {count} is missing: {part}"))
        })?;
        let header = gguf::parse(blob.path(), blob.bytes())?;
        let said = header.metadata.get("split.no").and_then(|v| v.as_u64());
        if said.is_some_and(|no| no != u64::from(number) - 1) {
            let reason = format!("is {}, in part {number}", said.unwrap_or_default());
            return Err(FormatError::config(blob.path(), "split.no", reason));
        }
        parts.push((blob, header));
    }
    Ok(parts)
}

fn rope_factors(blob: &Blob, info: &TensorInfo) -> Result<Vec<f32>, FormatError> {
    if info.dtype != StorageType::F32 {
        let reason = format!("is stored as {}, not F32", info.dtype);
        return Err(FormatError::tensor(blob.path(), &info.stored_name, reason));
    }
    let offset = info.offset as usize;
    let bytes = &blob.bytes()[offset..offset + info.bytes as usize];
    Ok(bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect())
}

/// The embedding models with a norm before each linear are trained on the last token; their converter writes the mean when it
/// does not find the file that says so.
fn doubtful_pooling(metadata: &gguf::Metadata, config: &ModelConfig, tensors: &[TensorInfo]) -> Option<String> {
    const MEAN: u64 = 1;
    let key = format!("{}.pooling_type", config.architecture);
    let is_mean = metadata.get(&key).and_then(|v| v.as_u64()) == Some(MEAN);
    let has_linear_norms = tensors.iter().any(|t| t.name.ends_with("_proj.norm.weight"));
    (is_mean && has_linear_norms).then(|| {
        format!(
            "{key} says the mean, which converters also write where they do not know: models like this one take the last \
             token's state (pooling `last`)"
        )
    })
}

/// Where the file contradicts itself without harm.
fn notes(metadata: &gguf::Metadata, tensors: &[TensorInfo]) -> Vec<String> {
    const I2_S_FILE: u64 = 40;
    let mut notes = Vec::new();
    let file_type = metadata.get("general.file_type").and_then(|v| v.as_u64());
    if file_type == Some(I2_S_FILE) && !tensors.iter().any(|t| t.dtype.is_i2s()) {
        notes.push("general.file_type says I2_S (40), but no tensor is; types are taken from the tensors".to_string());
    }
    let is_float_linear = |t: &&TensorInfo| {
        t.name.ends_with("_proj.weight")
            && matches!(t.dtype, StorageType::F32 | StorageType::F16 | StorageType::BF16 | StorageType::F64)
    };
    if let Some(linear) = tensors.iter().find(is_float_linear) {
        notes.push(format!(
            "linears are stored as {}: those that are not ternary already are taken for BitNet masters and quantized",
            linear.dtype
        ));
    }
    notes
}
