//! The burnpack container (`.bpk`), in which Burn keeps the parameters of a module, read and written without Burn.
//!
//! ```text
//!   0x4255524E  u32   "BURN"
//!   1           u16   version
//!   size        u32   bytes of the description
//!   description       CBOR: { tensors: { name: { dtype, shape, data_offsets, .. } }, metadata: { key: text } }
//!   zeros             up to a multiple of 256
//!   tensors           each from a multiple of 256 on; data_offsets count from the first one's place
//! ```
//!
//! All numbers are little-endian. What the tensors of a model are called is in [`names`].

pub(crate) mod names;
mod writer;

use std::collections::BTreeMap;

use ciborium::Value;
use serde::Deserialize;

use crate::blob::Blob;
use crate::{FormatError, StorageType};

pub(crate) use writer::{PADDING, Writer};

const MAGIC: u32 = 0x4255_524e;
const VERSION: u16 = 1;
/// Bytes before the description.
const HEADER: usize = 10;
/// Tensors begin at multiples of this.
const ALIGNMENT: usize = 256;
/// Burn refuses longer descriptions, and so does this reader.
const MAX_DESCRIPTION: usize = 100 << 20;
/// Nothing in a description lies deeper.
const MAX_DEPTH: usize = 16;

/// The types that are read and written, as Burn spells them.
const DTYPES: [(&str, StorageType); 12] = [
    ("F64", StorageType::F64),
    ("F32", StorageType::F32),
    ("F16", StorageType::F16),
    ("BF16", StorageType::BF16),
    ("I64", StorageType::I64),
    ("I32", StorageType::I32),
    ("I16", StorageType::I16),
    ("I8", StorageType::I8),
    ("U64", StorageType::U64),
    ("U32", StorageType::U32),
    ("U16", StorageType::U16),
    ("U8", StorageType::U8),
];

/// A tensor of a file.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: StorageType,
    pub(crate) shape: Vec<usize>,
    /// From the start of the file.
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

/// A file's tensors in the order of their data, and its texts.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) texts: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Description {
    tensors: BTreeMap<String, Described>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Described {
    /// A text, or a map for types that hold something besides.
    dtype: Value,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Reads what a file holds.
///
/// # Errors
///
/// When it is no such file, its description is damaged, or a tensor lies outside the file, over another one, has a type that is
/// not read here, or another size than its type and shape give.
pub(crate) fn parse(blob: &Blob) -> Result<Contents, FormatError> {
    let (file, bytes) = (blob.path(), blob.bytes());
    let damaged = |reason: String| FormatError::damaged(file, reason);
    let Some((header, rest)) = bytes.split_at_checked(HEADER) else {
        return Err(damaged(format!("it has {} bytes, which is no burnpack header", bytes.len())));
    };
    let magic = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    if magic != MAGIC {
        return Err(damaged("it does not begin as burnpack files do".to_string()));
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if version != VERSION {
        return Err(FormatError::unsupported(file, format!("burnpack version {version} (known: {VERSION})")));
    }
    let size = u32::from_le_bytes([header[6], header[7], header[8], header[9]]) as usize;
    let text = rest
        .get(..size)
        .filter(|_| size <= MAX_DESCRIPTION)
        .ok_or_else(|| damaged(format!("its description of {size} bytes does not fit a file of {}", bytes.len())))?;
    let description: Description = ciborium::de::from_reader_with_recursion_limit(text, MAX_DEPTH)
        .map_err(|error| damaged(format!("its description cannot be read: {error}")))?;
    let start = (HEADER + size).next_multiple_of(ALIGNMENT);
    let mut tensors = Vec::with_capacity(description.tensors.len());
    for (name, described) in description.tensors {
        let refuse = |reason: String| FormatError::tensor(file, &name, reason);
        let dtype = storage_type(&described.dtype)
            .ok_or_else(|| refuse(format!("has the type {:?}, which is not read here", described.dtype)))?;
        let shape: Option<Vec<usize>> = described.shape.iter().map(|dim| usize::try_from(*dim).ok()).collect();
        let shape = shape.ok_or_else(|| refuse(format!("has the shape {:?}", described.shape)))?;
        let place = |at: u64| usize::try_from(at).ok()?.checked_add(start).filter(|at| *at <= bytes.len());
        let (from, to) = described.data_offsets;
        let (Some(offset), Some(end)) = (place(from), place(to).filter(|_| from <= to)) else {
            return Err(refuse(format!("lies at {from} to {to}, outside a file of {} bytes", bytes.len())));
        };
        if dtype.byte_len(&shape) != Some(end - offset) {
            return Err(refuse(format!("has {} bytes, which are not {dtype} {shape:?}", end - offset)));
        }
        tensors.push(Tensor { name, dtype, shape, offset, bytes: end - offset });
    }
    tensors.sort_by_key(|tensor| (tensor.offset, tensor.bytes));
    for pair in tensors.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            return Err(FormatError::tensor(file, &pair[1].name, format!("lies over `{}`", pair[0].name)));
        }
    }
    Ok(Contents { tensors, texts: description.metadata })
}

fn storage_type(dtype: &Value) -> Option<StorageType> {
    let name = dtype.as_text()?;
    DTYPES.iter().find(|(known, _)| *known == name).map(|(_, storage)| *storage)
}

fn name_of(storage: StorageType) -> Option<&'static str> {
    DTYPES.iter().find(|(_, known)| *known == storage).map(|(name, _)| *name)
}
