//! The safetensors container: reading one file, or shards under an index, and writing one.

mod writer;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::blob::{Blob, Folder};
use crate::{FormatError, StorageType};

pub use writer::{SafetensorsWriter, TensorWriter as SafetensorsTensorWriter};

/// A tensor of one file.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: StorageType,
    /// From the start of the file.
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

/// One file's tensors in the order of their data, and its `__metadata__`.
pub(crate) struct Header {
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Reads the header. The `safetensors` crate checks it: no gap, no overlap, every size equal to what dtype and shape say,
/// nothing beyond the end of the file.
pub(crate) fn parse(blob: &Blob) -> Result<Header, FormatError> {
    let file = blob.path();
    let bytes = blob.bytes();
    if bytes.is_empty() {
        return Err(FormatError::damaged(file, "it is empty (0 bytes)"));
    }
    let (header_len, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|e| FormatError::damaged(file, e.to_string()))?;
    let data_start = header_len + size_of::<u64>();
    let mut tensors = Vec::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else {
            continue;
        };
        let dtype = storage_type(info.dtype).ok_or_else(|| {
            let reason = format!("has the dtype {:?}, which is not read here", info.dtype);
            FormatError::tensor(file, &name, reason)
        })?;
        let (begin, end) = info.data_offsets;
        tensors.push(Tensor { shape: info.shape.clone(), dtype, offset: data_start + begin, bytes: end - begin, name });
    }
    let metadata = metadata.metadata().clone().unwrap_or_default();
    Ok(Header { tensors, metadata: metadata.into_iter().collect() })
}

/// The dtypes that are read and written.
const DTYPES: [(Dtype, StorageType); 13] = [
    (Dtype::F64, StorageType::F64),
    (Dtype::F32, StorageType::F32),
    (Dtype::F16, StorageType::F16),
    (Dtype::BF16, StorageType::BF16),
    (Dtype::I64, StorageType::I64),
    (Dtype::I32, StorageType::I32),
    (Dtype::I16, StorageType::I16),
    (Dtype::I8, StorageType::I8),
    (Dtype::U64, StorageType::U64),
    (Dtype::U32, StorageType::U32),
    (Dtype::U16, StorageType::U16),
    (Dtype::U8, StorageType::U8),
    (Dtype::BOOL, StorageType::Bool),
];

fn storage_type(dtype: Dtype) -> Option<StorageType> {
    DTYPES.iter().find(|(known, _)| *known == dtype).map(|(_, storage)| *storage)
}

/// The dtype a type is written under.
fn dtype_of(storage: StorageType) -> Option<Dtype> {
    DTYPES.iter().find(|(_, known)| *known == storage).map(|(dtype, _)| *dtype)
}

/// `model.safetensors.index.json`: which shard holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// Reads an index: every shard it names stays in its folder, and there is one.
fn parse_index(file: &Path, text: &[u8]) -> Result<Index, FormatError> {
    let index: Index = serde_json::from_slice(text).map_err(|e| FormatError::damaged(file, e.to_string()))?;
    if index.weight_map.is_empty() {
        return Err(FormatError::damaged(file, "its weight_map is empty"));
    }
    match index.weight_map.values().find(|shard| !is_plain_file_name(shard)) {
        Some(shard) => {
            let reason = format!("it names the shard {shard:?}, which is not a plain file name");
            Err(FormatError::damaged(file, reason))
        }
        None => Ok(index),
    }
}

impl Index {
    /// The shards' names, each once.
    fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// The shards an index names.
#[cfg(feature = "hub")]
pub(crate) fn shard_names(file: &Path, text: &[u8]) -> Result<Vec<String>, FormatError> {
    Ok(parse_index(file, text)?.shards().into_iter().map(str::to_string).collect())
}

/// The shards an index names, opened, with their headers; every tensor of the index is in the shard it names.
pub(crate) fn open_index(folder: &Folder<'_>, index_name: &str) -> Result<Vec<(Blob, Header)>, FormatError> {
    let blob = folder.open(index_name)?;
    let file = blob.path();
    let index = parse_index(file, blob.bytes())?;
    let mut opened = Vec::new();
    for shard in index.shards() {
        let blob = folder
            .open_optional(shard)?
            .ok_or_else(|| FormatError::not_a_model(file, format!("the shard {shard} it names is missing")))?;
        let header = parse(&blob)?;
        opened.push((shard, blob, header));
    }
    let held: HashSet<(&str, &str)> =
        opened.iter().flat_map(|(shard, _, header)| header.tensors.iter().map(|t| (*shard, t.name.as_str()))).collect();
    for (tensor, shard) in &index.weight_map {
        if !held.contains(&(shard.as_str(), tensor.as_str())) {
            let reason = format!("is in the index but not in {shard}");
            return Err(FormatError::tensor(file, tensor, reason));
        }
    }
    Ok(opened.into_iter().map(|(_, blob, header)| (blob, header)).collect())
}

/// Whether a name from an index stays in its folder.
fn is_plain_file_name(name: &str) -> bool {
    !name.contains(['/', '\\', ':', '\0']) && Path::new(name).file_name().is_some_and(|file| file == name)
}

#[cfg(test)]
mod tests {
    use super::is_plain_file_name;

    #[test]
    fn shard_names_cannot_leave_the_folder() {
        assert!(is_plain_file_name("model-00001-of-00002.safetensors"));
        for name in ["", ".", "..", "../a", "/etc/passwd", "a/b", "a\\b", "C:a", "a\0"] {
            assert!(!is_plain_file_name(name), "{name:?}");
        }
    }
}
