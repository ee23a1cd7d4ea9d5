//! Header, metadata and tensor table, read from bytes nobody vouches for.
//!
//! Every count and length is held against the bytes that are left before anything is allocated for it.

use std::collections::HashSet;
use std::path::Path;

use super::DEFAULT_ALIGNMENT;
use super::value::{Array, Metadata, Value};
use crate::FormatError;

/// Arrays may nest this deep; no known file nests at all.
const MAX_DEPTH: usize = 4;
/// GGML tensors have at most four dimensions.
const MAX_DIMS: u32 = 4;
/// Longest tensor name accepted; GGML itself stops at 64.
const MAX_NAME: u64 = 1024;

/// What a file says of itself before its data.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: Metadata,
    pub(crate) table: Table,
}

/// The table of tensors, and what their offsets count from.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) tensors: Vec<TensorEntry>,
    pub(crate) alignment: usize,
    /// First byte of the data section. Lies beyond the end of a file without tensors.
    pub(crate) data_start: usize,
}

/// One row of the tensor table.
#[derive(Debug)]
pub(crate) struct TensorEntry {
    pub(crate) name: String,
    /// Outermost first (the file has them the other way round).
    pub(crate) shape: Vec<usize>,
    pub(crate) type_id: u32,
    /// From the start of the data section.
    pub(crate) offset: u64,
}

/// Reads everything before the data section.
pub(crate) fn parse(file: &Path, bytes: &[u8]) -> Result<Header, FormatError> {
    let mut cursor = Cursor { file, bytes, position: 0 };
    if bytes.is_empty() {
        return Err(cursor.damaged("it is empty (0 bytes)"));
    }
    if cursor.take(4, "the magic number")? != b"GGUF" {
        return Err(cursor.damaged("it does not begin with `GGUF`"));
    }
    match cursor.u32("the version")? {
        2 | 3 => {}
        1 => {
            return Err(FormatError::unsupported(
                file,
                "GGUF version 1 (convert the model again with current tools; versions 2 and 3 are read)",
            ));
        }
        other if matches!(other.swap_bytes(), 1..=3) => {
            return Err(FormatError::unsupported(file, "a big-endian GGUF"));
        }
        other => {
            return Err(FormatError::unsupported(file, format!("GGUF version {other} (versions 2 and 3 are read)")));
        }
    }
    let tensor_count = cursor.u64("the tensor count")?;
    let pair_count = cursor.u64("the metadata count")?;
    // A pair is at least a length, a type and one byte; a tensor a length, a dimension count, a type and an offset.
    cursor.fits(pair_count, 13, "metadata pairs")?;
    cursor.fits(tensor_count, 24, "tensors")?;

    let mut metadata = Metadata::default();
    for _ in 0..pair_count {
        let key = cursor.string("a metadata key")?;
        let kind = cursor.u32("a metadata type")?;
        let value = cursor.value(&key, kind)?;
        if metadata.insert(key.clone(), value).is_err() {
            return Err(cursor.damaged(format!("metadata key `{key}` appears twice")));
        }
    }
    let alignment = alignment(file, &metadata)?;

    let mut tensors = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..tensor_count {
        let entry = cursor.tensor()?;
        if !seen.insert(entry.name.clone()) {
            return Err(FormatError::tensor(file, &entry.name, "appears twice"));
        }
        if !entry.offset.is_multiple_of(alignment as u64) {
            return Err(FormatError::tensor(
                file,
                &entry.name,
                format!("has offset {}, which is not a multiple of {alignment}", entry.offset),
            ));
        }
        tensors.push(entry);
    }
    let data_start = cursor.position.next_multiple_of(alignment);
    Ok(Header { metadata, table: Table { tensors, alignment, data_start } })
}

fn alignment(file: &Path, metadata: &Metadata) -> Result<usize, FormatError> {
    const KEY: &str = "general.alignment";
    let Some(value) = metadata.get(KEY) else {
        return Ok(DEFAULT_ALIGNMENT as usize);
    };
    value
        .as_u64()
        .filter(|n| n.is_power_of_two() && (8..=1 << 20).contains(n))
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| {
            let reason = format!("is {value:?}, not a power of two from 8 to 1048576");
            FormatError::config(file, KEY, reason)
        })
}

struct Cursor<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    fn damaged(&self, reason: impl Into<String>) -> FormatError {
        FormatError::damaged(self.file, reason)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], FormatError> {
        match usize::try_from(len) {
            Ok(len) if len <= self.left() => {
                let taken = &self.bytes[self.position..self.position + len];
                self.position += len;
                Ok(taken)
            }
            _ => Err(self.damaged(format!(
                "it ends inside {what}: {len} bytes wanted at byte {}, {} left",
                self.position,
                self.left()
            ))),
        }
    }

    /// Refuses a count that the rest of the file cannot hold, before anything is allocated for it.
    fn fits(&self, count: u64, least_bytes: u64, what: &str) -> Result<usize, FormatError> {
        if count <= self.left() as u64 / least_bytes {
            return Ok(count as usize);
        }
        Err(self.damaged(format!(
            "it announces {count} {what} at byte {}, with {} bytes left",
            self.position,
            self.left()
        )))
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], FormatError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64, what)?);
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn str(&mut self, what: &str) -> Result<&'a str, FormatError> {
        let len = self.u64(what)?;
        let at = self.position;
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes).map_err(|_| self.damaged(format!("{what} at byte {at} is not UTF-8")))
    }

    fn string(&mut self, what: &str) -> Result<String, FormatError> {
        self.str(what).map(str::to_string)
    }

    fn bool(&self, byte: u8, key: &str) -> Result<bool, FormatError> {
        match byte {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(FormatError::config(self.file, key, format!("has the truth value {other}"))),
        }
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<Value, FormatError> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.array(key)?)),
            1 => Value::I8(i8::from_le_bytes(self.array(key)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(key)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(key)?)),
            4 => Value::U32(u32::from_le_bytes(self.array(key)?)),
            5 => Value::I32(i32::from_le_bytes(self.array(key)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(key)?)),
            7 => {
                let [byte] = self.array(key)?;
                Value::Bool(self.bool(byte, key)?)
            }
            8 => Value::String(self.string(key)?),
            9 => Value::Array(self.values(key, 1)?),
            10 => Value::U64(u64::from_le_bytes(self.array(key)?)),
            11 => Value::I64(i64::from_le_bytes(self.array(key)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(key)?)),
            other => return Err(self.unknown_type(key, other)),
        })
    }

    fn unknown_type(&self, key: &str, kind: u32) -> FormatError {
        FormatError::config(self.file, key, format!("has the unknown type {kind}"))
    }

    fn values(&mut self, key: &str, depth: usize) -> Result<Array, FormatError> {
        if depth > MAX_DEPTH {
            let reason = format!("nests arrays deeper than {MAX_DEPTH}");
            return Err(FormatError::config(self.file, key, reason));
        }
        let kind = self.u32(key)?;
        let count = self.u64(key)?;
        Ok(match kind {
            0 => Array::U8(self.numbers(count, key, u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(count, key, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(count, key, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(count, key, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(count, key, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(count, key, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(count, key, f32::from_le_bytes)?),
            7 => {
                let bytes = self.numbers(count, key, u8::from_le_bytes)?;
                let values = bytes.into_iter().map(|b| self.bool(b, key));
                Array::Bool(values.collect::<Result<_, _>>()?)
            }
            8 => {
                let mut strings = Vec::with_capacity(self.fits(count, 8, key)?);
                for _ in 0..count {
                    strings.push(self.string(key)?);
                }
                Array::String(strings)
            }
            9 => {
                let count = self.fits(count, 12, key)?;
                let mut arrays = Vec::new();
                for _ in 0..count {
                    arrays.push(self.values(key, depth + 1)?);
                }
                Array::Array(arrays)
            }
            10 => Array::U64(self.numbers(count, key, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(count, key, i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(count, key, f64::from_le_bytes)?),
            other => return Err(self.unknown_type(key, other)),
        })
    }

    fn numbers<T, const N: usize>(
        &mut self,
        count: u64,
        key: &str,
        read: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, FormatError> {
        let count = self.fits(count, N as u64, key)?;
        let bytes = self.take((count * N) as u64, key)?;
        let (chunks, _) = bytes.as_chunks::<N>();
        Ok(chunks.iter().map(|chunk| read(*chunk)).collect())
    }

    fn tensor(&mut self) -> Result<TensorEntry, FormatError> {
        let at = self.position;
        let name = self.str("a tensor name")?;
        if name.is_empty() || name.len() as u64 > MAX_NAME {
            let reason = format!("the tensor name at byte {at} has {} bytes", name.len());
            return Err(self.damaged(reason));
        }
        let dims = self.u32("a tensor's dimension count")?;
        if dims > MAX_DIMS {
            let reason = format!("has {dims} dimensions, more than {MAX_DIMS}");
            return Err(FormatError::tensor(self.file, name, reason));
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            let dim = self.u64("a tensor's shape")?;
            match usize::try_from(dim) {
                Ok(dim) if dim > 0 => shape.push(dim),
                _ => {
                    let reason = format!("has a dimension of {dim}");
                    return Err(FormatError::tensor(self.file, name, reason));
                }
            }
        }
        shape.reverse();
        Ok(TensorEntry {
            name: name.to_string(),
            shape,
            type_id: self.u32("a tensor's type")?,
            offset: self.u64("a tensor's offset")?,
        })
    }
}
