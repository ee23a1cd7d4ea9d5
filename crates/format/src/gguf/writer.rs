//! Writing GGUF version 3.
//!
//! Data is streamed tensor by tensor into a temporary file beside the target, which takes the target's name only when
//! everything is written: a reader never sees half a model.

use std::collections::HashSet;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use super::value::{Array, Metadata, Value};
use super::{DEFAULT_ALIGNMENT, types};
use crate::atomic::Target;
use crate::{FormatError, StorageType};

/// What will be in the file: metadata and the table of tensors. [`create`](Self::create) begins writing.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    metadata: Metadata,
    tensors: Vec<Declared>,
    names: HashSet<String>,
}

#[derive(Debug, Clone)]
struct Declared {
    name: String,
    shape: Vec<usize>,
    type_id: u32,
    bytes: usize,
}

impl Writer {
    /// A file with neither metadata nor tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file with these keys, which are unique and without `general.alignment`, and no tensors.
    pub(crate) fn with_metadata(metadata: Metadata) -> Self {
        Self { metadata, ..Self::default() }
    }

    /// Adds a key. Keys are written in the order they are added.
    ///
    /// # Errors
    ///
    /// When the key is there already, or is `general.alignment`: this writer aligns to the default of 32.
    pub fn metadata(&mut self, key: &str, value: impl Into<Value>) -> Result<&mut Self, FormatError> {
        if key == "general.alignment" {
            let reason = "cannot be chosen: tensors are aligned to 32 bytes";
            return Err(FormatError::config(Path::new("GGUF"), key, reason));
        }
        self.metadata
            .insert(key.to_string(), value.into())
            .map_err(|_| FormatError::config(Path::new("GGUF"), key, "is given twice"))?;
        Ok(self)
    }

    /// Declares a tensor of `shape`, outermost dimension first. Data follows in the order of declaration.
    ///
    /// # Errors
    ///
    /// When the name is taken or empty, the shape has more than four dimensions or an empty one, does not fit the
    /// type's blocks, or the type has no GGML id.
    pub fn tensor(&mut self, name: &str, dtype: StorageType, shape: &[usize]) -> Result<&mut Self, FormatError> {
        let refuse = |reason: String| FormatError::tensor(Path::new("GGUF"), name, reason);
        if name.is_empty() || !self.names.insert(name.to_string()) {
            return Err(refuse("is named twice, or not at all".to_string()));
        }
        if shape.len() > 4 || shape.contains(&0) {
            return Err(refuse(format!("cannot have the shape {shape:?}")));
        }
        let type_id =
            types::type_id(dtype).ok_or_else(|| refuse(format!("has the type {dtype}, which GGUF cannot hold")))?;
        let bytes = dtype
            .byte_len(shape)
            .ok_or_else(|| refuse(format!("has the shape {shape:?}, which {dtype} cannot store")))?;
        self.tensors.push(Declared { name: name.to_string(), shape: shape.to_vec(), type_id, bytes });
        Ok(self)
    }

    /// Writes header, metadata and table to a temporary file beside `path`.
    ///
    /// # Errors
    ///
    /// When `path` exists and `overwrite` is false, or writing fails.
    pub fn create(self, path: impl AsRef<Path>, overwrite: bool) -> Result<TensorWriter, FormatError> {
        let (target, file) = Target::begin(path.as_ref(), overwrite, ".new-", ".gguf")?;
        let wrap = |error| FormatError::io(target.path(), error);
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let header = self.header();
        out.write_all(&header).map_err(wrap)?;
        pad(&mut out, header.len()).map_err(wrap)?;
        Ok(TensorWriter { target, out, tensors: self.tensors, next: 0 })
    }

    fn header(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(b"GGUF");
        out.extend_from_slice(&3u32.to_le_bytes());
        out.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        out.extend_from_slice(&(self.metadata.iter().len() as u64).to_le_bytes());
        for (key, value) in self.metadata.iter() {
            put_str(&mut out, key);
            put_value(&mut out, value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            put_str(&mut out, &tensor.name);
            out.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            for dim in tensor.shape.iter().rev() {
                out.extend_from_slice(&(*dim as u64).to_le_bytes());
            }
            out.extend_from_slice(&tensor.type_id.to_le_bytes());
            out.extend_from_slice(&offset.to_le_bytes());
            offset += tensor.bytes as u64;
            offset = offset.next_multiple_of(DEFAULT_ALIGNMENT.into());
        }
        out
    }
}

/// Takes the data of each declared tensor in turn; [`finish`](Self::finish) gives the file its name.
///
/// Dropped before that, it leaves nothing behind.
#[derive(Debug)]
pub struct TensorWriter {
    target: Target,
    out: BufWriter<NamedTempFile>,
    tensors: Vec<Declared>,
    next: usize,
}

impl TensorWriter {
    /// Writes the next tensor's bytes.
    ///
    /// # Errors
    ///
    /// When `name` is not the next declared tensor, `data` is not as long as its type and shape say, or writing fails.
    pub fn write(&mut self, name: &str, data: &[u8]) -> Result<(), FormatError> {
        self.write_with(name, |out| out.write_all(data))
    }

    /// Writes the next tensor from a function that streams it.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn write_with(
        &mut self,
        name: &str,
        data: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), FormatError> {
        let Some(declared) = self.tensors.get(self.next).filter(|t| t.name == name) else {
            let due = match self.tensors.get(self.next) {
                Some(declared) => format!("is given where `{}` is due", declared.name),
                None => "is given after the last declared tensor".to_string(),
            };
            return Err(FormatError::tensor(self.target.path(), name, due));
        };
        let mut counted = Counted { out: &mut self.out, written: 0 };
        data(&mut counted).map_err(|e| FormatError::io(self.target.path(), e))?;
        let written = counted.written;
        if written != declared.bytes {
            let reason = format!("has {written} bytes of data instead of {}", declared.bytes);
            return Err(FormatError::tensor(self.target.path(), name, reason));
        }
        pad(&mut self.out, written).map_err(|e| FormatError::io(self.target.path(), e))?;
        self.next += 1;
        Ok(())
    }

    /// Flushes everything to disk and gives the file its name.
    ///
    /// # Errors
    ///
    /// When a declared tensor is missing, the target has come to exist meanwhile (without `overwrite`), or writing fails.
    pub fn finish(self) -> Result<(), FormatError> {
        let (target, file) = self.finish_unnamed()?;
        target.commit(file)
    }

    /// Hands out the complete file before it has its name.
    pub(crate) fn finish_unnamed(self) -> Result<(Target, NamedTempFile), FormatError> {
        if let Some(missing) = self.tensors.get(self.next) {
            return Err(FormatError::tensor(self.target.path(), &missing.name, "was never written"));
        }
        let file = self.out.into_inner().map_err(|e| FormatError::io(self.target.path(), e.into_error()))?;
        Ok((self.target, file))
    }
}

struct Counted<'a> {
    out: &'a mut BufWriter<NamedTempFile>,
    written: usize,
}

impl Write for Counted<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.out.write(data)?;
        self.written += n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Zeros up to the alignment.
fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    let alignment = DEFAULT_ALIGNMENT as usize;
    let zeros = written.next_multiple_of(alignment) - written;
    out.write_all(&[0; DEFAULT_ALIGNMENT as usize][..zeros])
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let kind: u32 = match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    };
    out.extend_from_slice(&kind.to_le_bytes());
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_str(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    let kind: u32 = match array {
        Array::U8(_) => 0,
        Array::I8(_) => 1,
        Array::U16(_) => 2,
        Array::I16(_) => 3,
        Array::U32(_) => 4,
        Array::I32(_) => 5,
        Array::F32(_) => 6,
        Array::Bool(_) => 7,
        Array::String(_) => 8,
        Array::Array(_) => 9,
        Array::U64(_) => 10,
        Array::I64(_) => 11,
        Array::F64(_) => 12,
    };
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&(array.len() as u64).to_le_bytes());
    match array {
        Array::U8(v) => out.extend_from_slice(v),
        Array::I8(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::U16(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I16(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::U32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::F32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::Bool(v) => out.extend(v.iter().map(|x| u8::from(*x))),
        Array::String(v) => v.iter().for_each(|x| put_str(out, x)),
        Array::Array(v) => v.iter().for_each(|x| put_array(out, x)),
        Array::U64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::F64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
    }
}
