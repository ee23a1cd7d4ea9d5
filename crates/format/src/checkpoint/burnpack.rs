//! Checkpoints in burnpack files.

use std::collections::BTreeMap;

use super::open::Parts;
use super::{Checkpoint, Container, Metadata};
use crate::blob::{Blob, Folder};
use crate::burnpack::{self, names};
use crate::config::from_burnpack;
use crate::export::burnpack::{CONFIG, DENSE_TYPES, GROUP_SIZE};
use crate::tokenizer::HfFiles;
use crate::{FormatError, ModelConfig, StorageType, TensorInfo};

/// Opens a file with the parameters of a model and, as texts, all else that a model has.
pub(super) fn open(folder: &Folder<'_>, name: &str) -> Result<Checkpoint, FormatError> {
    let blob = folder.open(name)?;
    let burnpack::Contents { tensors, mut texts } = burnpack::parse(&blob)?;
    let file = blob.path();
    let config = texts.get(CONFIG).ok_or_else(|| {
        FormatError::not_a_model(file, format!("no `{CONFIG}` in it: these are parameters of some other module"))
    })?;
    let config = from_burnpack(file, CONFIG, config)?;
    let group_size = match texts.get(GROUP_SIZE) {
        None => None,
        Some(size) => Some(size.parse().map_err(|_| {
            FormatError::config(file, GROUP_SIZE, format!("is {size:?}, which is no number of columns"))
        })?),
    };
    let two_sided = names::is_two_sided(tensors.iter().map(|tensor| tensor.name.as_str()));
    let infos = tensors.into_iter().map(|tensor| info(&blob, tensor, two_sided, &config, &texts));
    let tensors = infos.collect::<Result<Vec<_>, _>>()?;
    let hf_files = HfFiles::open(&Folder::Inside(file, &texts))?;
    texts.retain(|key, _| !key.ends_with(".json") && !key.ends_with(".jinja") && key != burnpack::PADDING);
    Parts {
        container: Container::Burnpack,
        files: vec![blob],
        tensors,
        config,
        metadata: Metadata::Burnpack { texts, group_size },
        hf_files,
        notes: Vec::new(),
    }
    .assemble()
}

/// A tensor under its canonical name. Embedding and head are rows of bytes, of a type that a text names.
fn info(
    blob: &Blob,
    tensor: burnpack::Tensor,
    two_sided: bool,
    config: &ModelConfig,
    texts: &BTreeMap<String, String>,
) -> Result<TensorInfo, FormatError> {
    let burnpack::Tensor { name: path, dtype, shape, offset, bytes } = tensor;
    let refuse = |reason: String| FormatError::tensor(blob.path(), &path, reason);
    let name = names::name_of(&path, two_sided).unwrap_or_else(|| path.clone());
    let belongs = match DENSE_TYPES.iter().find(|(tensor, _)| *tensor == name) {
        Some(_) => StorageType::U8,
        None if path.ends_with(names::WORDS) => StorageType::U32,
        None => dtype,
    };
    if dtype != belongs {
        return Err(refuse(format!("is of type {dtype}, where {belongs} belongs")));
    }
    let (dtype, shape) = match DENSE_TYPES.iter().find(|(tensor, _)| *tensor == name) {
        None => (dtype, shape),
        Some((_, key)) => {
            let named = texts.get(*key).map(String::as_str).unwrap_or_default();
            let dtype = dense_type(named).ok_or_else(|| {
                FormatError::config(blob.path(), key, format!("is {named:?}, which is no type of an embedding"))
            })?;
            let shape = vec![shape.first().copied().unwrap_or_default(), config.hidden_size];
            if dtype.byte_len(&shape) != Some(bytes) {
                return Err(refuse(format!("has {bytes} bytes, which are not {dtype} {shape:?}")));
            }
            (dtype, shape)
        }
    };
    Ok(TensorInfo {
        name,
        stored_name: path,
        dtype,
        shape,
        bytes: bytes as u64,
        offset: offset as u64,
        file: 0,
        interleaved_heads: None,
    })
}

/// The type that a text names, as `Display` spells it.
fn dense_type(name: &str) -> Option<StorageType> {
    let types = [
        StorageType::F32,
        StorageType::F16,
        StorageType::BF16,
        StorageType::Q8_0,
        StorageType::Q6_K,
        StorageType::Q4_0,
        StorageType::Q5_0,
        StorageType::Q3_K,
        StorageType::Q4_K,
        StorageType::IQ4_NL,
    ];
    types.into_iter().find(|dtype| dtype.to_string() == name)
}
