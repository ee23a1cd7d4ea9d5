//! A GGUF file with other metadata and the same tensors, byte for byte.

use std::path::Path;

use super::{Progress, Stage};
use crate::export::Draft;
use crate::export::gguf_keys::file_type_of;
use crate::gguf::{Value, Writer};
use crate::{Activation, Checkpoint, FormatError, Metadata, StorageType, open};

/// Bytes that are dealt with at once, so that a large tensor is never mapped whole.
const CHUNK: usize = 16 << 20;

/// What is wrong or missing among a file's keys outside its tokenizer, with what is right:
///
/// - `A.hidden_activation` of a `bitnet-25` or `bitnet-b1.58` with squared ReLU, which readers otherwise have to know;
/// - `general.file_type`, where it says something else than the tensors do.
///
/// # Errors
///
/// When the model is no GGUF file.
pub fn faults(source: &Checkpoint) -> Result<Vec<(String, Value)>, FormatError> {
    let metadata = metadata(source)?;
    let config = source.config();
    let mut faults = Vec::new();
    let key = format!("{}.hidden_activation", config.architecture);
    if config.activation == Activation::Relu2 && metadata.get(&key).is_none() {
        faults.push((key, "relu2".into()));
    }
    let linear =
        source.tensors().find(|t| t.name.ends_with("_proj.weight") && matches!(t.dtype, StorageType::Ternary(_)));
    if let Some(right) = linear.and_then(|linear| file_type_of(linear.dtype)) {
        let key = "general.file_type";
        let said = metadata.get(key).and_then(Value::as_u64);
        if said != Some(u64::from(right)) {
            faults.push((key.to_string(), right.into()));
        }
    }
    Ok(faults)
}

/// Writes a GGUF model to `path` with `changes` to its keys: those that are there get their new value, others are added. Of a
/// split model one file is made. Tensors keep name, type, shape and bytes, which is checked before the file gets its
/// name. Returns the size of the file.
///
/// # Errors
///
/// When the model is no GGUF file, `path` exists and `overwrite` is false, or writing fails. Nothing is left behind.
pub fn repair(
    source: &Checkpoint,
    changes: &[(String, Value)],
    path: &Path,
    overwrite: bool,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<u64, FormatError> {
    // The first belongs to the layout of a file, which the writer chooses; the others to a split model.
    let mut metadata = metadata(source)?.filtered(|key| key != "general.alignment" && !key.starts_with("split."));
    for (key, value) in changes {
        metadata.set(key, value.clone());
    }
    let mut writer = Writer::with_metadata(metadata);
    for tensor in source.tensors() {
        writer.tensor(&tensor.stored_name, tensor.dtype, &tensor.shape)?;
    }
    let total = source.tensors().map(|tensor| tensor.elements() as u64).sum();
    let each = |stage: Stage, deal: &mut dyn FnMut(&str, &str) -> Result<(), FormatError>| {
        let mut done = 0;
        for tensor in source.tensors() {
            progress(Progress { stage, done, total });
            deal(&tensor.name, &tensor.stored_name)?;
            source.release(&tensor.name);
            done += tensor.elements() as u64;
        }
        progress(Progress { stage, done, total });
        Ok::<(), FormatError>(())
    };
    let mut out = writer.create(path, overwrite)?;
    each(Stage::Write, &mut |name, stored_name| {
        let bytes = source.bytes(name)?;
        out.write_with(stored_name, |out| {
            bytes.chunks(CHUNK).enumerate().try_for_each(|(index, chunk)| {
                out.write_all(chunk)?;
                source.release_part(name, index * CHUNK..index * CHUNK + chunk.len());
                Ok(())
            })
        })
    })?;
    let draft = Draft::file(out.finish_unnamed()?);
    let written = open(draft.path())?;
    each(Stage::Verify, &mut |name, stored_name| {
        let (meant, found) = (source.bytes(name)?, written.bytes(name)?);
        for (index, (chunk, other)) in meant.chunks(CHUNK).zip(found.chunks(CHUNK)).enumerate() {
            if chunk != other {
                return Err(FormatError::tensor(path, stored_name, "does not come back: other bytes"));
            }
            let pages = index * CHUNK..index * CHUNK + chunk.len();
            source.release_part(name, pages.clone());
            written.release_part(name, pages);
        }
        Ok(())
    })?;
    let bytes = written.source().files.iter().map(|file| file.bytes).sum();
    draft.publish()?;
    Ok(bytes)
}

fn metadata(source: &Checkpoint) -> Result<&crate::gguf::Metadata, FormatError> {
    match source.metadata() {
        Metadata::Gguf(metadata) => Ok(metadata),
        Metadata::HuggingFace { .. } | Metadata::Burnpack { .. } => {
            let file = source.source().files.first().map(|file| file.path.clone()).unwrap_or_default();
            Err(FormatError::unsupported(&file, "repairing a model that is no GGUF file"))
        }
    }
}
