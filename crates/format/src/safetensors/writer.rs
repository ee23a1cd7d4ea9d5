//! Writing a safetensors file.
//!
//! The header comes first and says where every tensor lies, so tensors are declared before any of them is written. Data
//! goes to its place in a temporary file beside the target, which takes the target's name when everything is there: a
//! reader never sees half a file, and no more than one tensor is ever held in memory.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use safetensors::tensor::TensorInfo;
use serde::ser::{Serialize, SerializeMap, Serializer};
use tempfile::NamedTempFile;

use super::dtype_of;
use crate::atomic::Target;
use crate::{FormatError, StorageType};

/// What is written ahead of a tensor's name in the header's JSON object, and so can name no tensor.
const METADATA: &str = "__metadata__";
/// Readers refuse a longer header.
const MAX_HEADER: usize = 100_000_000;

/// What will be in the file: texts by key and the table of tensors. [`create`](Self::create) begins writing.
///
/// ```
/// use bitnet_format::{SafetensorsWriter, StorageType};
///
/// let folder = tempfile::tempdir()?;
/// let mut file = SafetensorsWriter::new();
/// file.metadata("step", "12")?;
/// file.tensor("moments", StorageType::F32, &[2, 2])?.tensor("seed", StorageType::U32, &[1])?;
/// let mut out = file.create(folder.path().join("state.safetensors"), false)?;
/// out.write_f32("moments", &[0.5, 1.0, 1.5, 2.0])?;
/// out.write_u32("seed", &[7])?;
/// out.finish()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct SafetensorsWriter {
    metadata: BTreeMap<String, String>,
    tensors: Vec<Declared>,
    by_name: HashMap<String, usize>,
}

#[derive(Debug, Clone)]
struct Declared {
    name: String,
    info: TensorInfo,
    element_bytes: usize,
    bytes: usize,
    written: bool,
}

impl SafetensorsWriter {
    /// A file with neither texts nor tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a text to the header's `__metadata__`.
    ///
    /// # Errors
    ///
    /// When the key is there already.
    pub fn metadata(&mut self, key: &str, value: &str) -> Result<&mut Self, FormatError> {
        if self.metadata.insert(key.to_string(), value.to_string()).is_some() {
            return Err(FormatError::config(Path::new("safetensors"), key, "is given twice"));
        }
        Ok(self)
    }

    /// Declares a tensor of `shape`, outermost dimension first.
    ///
    /// # Errors
    ///
    /// When the name is taken, empty or `__metadata__`, the type is one that safetensors lack, or the size overflows.
    pub fn tensor(&mut self, name: &str, dtype: StorageType, shape: &[usize]) -> Result<&mut Self, FormatError> {
        let refuse = |reason: String| FormatError::tensor(Path::new("safetensors"), name, reason);
        if matches!(name, "" | METADATA) || self.by_name.contains_key(name) {
            return Err(refuse("is named twice, or as no tensor can be".to_string()));
        }
        let lacking = || refuse(format!("has the type {dtype}, which safetensors cannot hold"));
        let (stored, element_bytes) = dtype_of(dtype).zip(dtype.element_bytes()).ok_or_else(lacking)?;
        let bytes = dtype.byte_len(shape).ok_or_else(|| refuse(format!("has the shape {shape:?}, too large")))?;
        let info = TensorInfo { dtype: stored, shape: shape.to_vec(), data_offsets: (0, 0) };
        self.by_name.insert(name.to_string(), self.tensors.len());
        self.tensors.push(Declared { name: name.to_string(), info, element_bytes, bytes, written: false });
        Ok(self)
    }

    /// Writes the header to a temporary file beside `path`.
    ///
    /// # Errors
    ///
    /// When `path` exists and `overwrite` is false, the header is longer than readers take, or writing fails.
    pub fn create(mut self, path: impl AsRef<Path>, overwrite: bool) -> Result<TensorWriter, FormatError> {
        let path = path.as_ref();
        self.place(path)?;
        let header = self.header(path)?;
        let (target, file) = Target::begin(path, overwrite, ".new-", ".safetensors")?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&header).map_err(|e| FormatError::io(path, e))?;
        let (position, data_start) = (header.len() as u64, header.len() as u64);
        let by_name = self.by_name;
        Ok(TensorWriter { target, out, data_start, position, tensors: self.tensors, by_name })
    }

    /// Gives every tensor its place. The format has no padding between tensors, so they lie widest element first, in
    /// order of declaration otherwise: then each begins at a multiple of its element's size.
    fn place(&mut self, path: &Path) -> Result<(), FormatError> {
        let mut order: Vec<usize> = (0..self.tensors.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(self.tensors[*index].element_bytes));
        let mut end = 0usize;
        for index in order {
            let tensor = &mut self.tensors[index];
            let begin = end;
            end = begin
                .checked_add(tensor.bytes)
                .ok_or_else(|| FormatError::tensor(path, &tensor.name, "makes the file too large"))?;
            tensor.info.data_offsets = (begin, end);
        }
        Ok(())
    }

    /// The header's length, the header, and spaces up to a multiple of 8.
    fn header(&self, path: &Path) -> Result<Vec<u8>, FormatError> {
        let mut json = serde_json::to_vec(&Header(self)).map_err(|e| FormatError::io(path, e.into()))?;
        json.resize(json.len().next_multiple_of(8), b' ');
        if json.len() > MAX_HEADER {
            let what = format!("a header of {} bytes (readers take {MAX_HEADER})", json.len());
            return Err(FormatError::unsupported(path, what));
        }
        Ok([&(json.len() as u64).to_le_bytes(), &json[..]].concat())
    }
}

/// The header as a JSON object. The same declarations always give the same bytes.
struct Header<'a>(&'a SafetensorsWriter);

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(file) = self;
        let mut object = serializer.serialize_map(None)?;
        if !file.metadata.is_empty() {
            object.serialize_entry(METADATA, &file.metadata)?;
        }
        for tensor in &file.tensors {
            object.serialize_entry(&tensor.name, &tensor.info)?;
        }
        object.end()
    }
}

/// Takes the data of each declared tensor, one at a time and in any order; [`finish`](Self::finish) gives the file its
/// name.
///
/// Dropped before that, it leaves nothing behind.
#[derive(Debug)]
pub struct TensorWriter {
    target: Target,
    out: BufWriter<NamedTempFile>,
    data_start: u64,
    position: u64,
    tensors: Vec<Declared>,
    by_name: HashMap<String, usize>,
}

impl TensorWriter {
    /// Writes a tensor's little-endian bytes.
    ///
    /// # Errors
    ///
    /// When no tensor of this name was declared, it was written already, `data` is not as long as its type and shape
    /// say, or writing fails.
    pub fn write(&mut self, name: &str, data: &[u8]) -> Result<(), FormatError> {
        self.write_with(name, |out| out.write_all(data))
    }

    /// Writes a tensor from a function that streams its little-endian bytes.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn write_with(
        &mut self,
        name: &str,
        data: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), FormatError> {
        let refuse = |reason: &str| FormatError::tensor(self.target.path(), name, reason);
        let index = *self.by_name.get(name).ok_or_else(|| refuse("was not declared"))?;
        let tensor = &mut self.tensors[index];
        if tensor.written {
            return Err(refuse("is written twice"));
        }
        let wrap = |error| FormatError::io(self.target.path(), error);
        let begin = self.data_start + tensor.info.data_offsets.0 as u64;
        // A seek empties the buffer, and tensors often come in the order of their places.
        if begin != self.position {
            self.out.seek(SeekFrom::Start(begin)).map_err(wrap)?;
        }
        let mut place = Place { out: &mut self.out, room: tensor.bytes, over: 0 };
        let streamed = data(&mut place);
        let (stored, over) = (tensor.bytes - place.room, place.over);
        self.position = begin + stored as u64;
        streamed.map_err(wrap)?;
        if stored + over != tensor.bytes {
            return Err(refuse(&format!("has {} bytes of data instead of {}", stored + over, tensor.bytes)));
        }
        tensor.written = true;
        Ok(())
    }

    /// Writes a tensor that was declared as [`StorageType::F32`].
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), and when the tensor was declared as something else.
    pub fn write_f32(&mut self, name: &str, values: &[f32]) -> Result<(), FormatError> {
        self.write_words(name, StorageType::F32, values, |value| value.to_le_bytes())
    }

    /// Writes a tensor that was declared as [`StorageType::U32`].
    ///
    /// # Errors
    ///
    /// As [`write_f32`](Self::write_f32).
    pub fn write_u32(&mut self, name: &str, values: &[u32]) -> Result<(), FormatError> {
        self.write_words(name, StorageType::U32, values, |value| value.to_le_bytes())
    }

    fn write_words<T: Copy>(
        &mut self,
        name: &str,
        dtype: StorageType,
        values: &[T],
        bytes: impl Fn(T) -> [u8; 4],
    ) -> Result<(), FormatError> {
        if let Some(tensor) = self.by_name.get(name).map(|index| &self.tensors[*index])
            && dtype_of(dtype) != Some(tensor.info.dtype)
        {
            let reason = format!("is declared as {:?} and given as {dtype}", tensor.info.dtype);
            return Err(FormatError::tensor(self.target.path(), name, reason));
        }
        self.write_with(name, |out| {
            // In pieces, so that a large tensor is not copied whole.
            values.chunks(1 << 14).try_for_each(|piece| {
                let piece: Vec<u8> = piece.iter().flat_map(|value| bytes(*value)).collect();
                out.write_all(&piece)
            })
        })
    }

    /// Brings everything to disk and gives the file its name.
    ///
    /// # Errors
    ///
    /// When a declared tensor is missing, the target has come to exist meanwhile (without `overwrite`), or writing fails.
    pub fn finish(self) -> Result<(), FormatError> {
        if let Some(missing) = self.tensors.iter().find(|tensor| !tensor.written) {
            return Err(FormatError::tensor(self.target.path(), &missing.name, "was never written"));
        }
        let wrap = |error| FormatError::io(self.target.path(), error);
        let file = self.out.into_inner().map_err(|e| wrap(e.into_error()))?;
        self.target.commit(file)
    }
}

/// The place of one tensor. What would run over into the next is counted and left out.
struct Place<'a> {
    out: &'a mut BufWriter<NamedTempFile>,
    room: usize,
    over: usize,
}

impl Write for Place<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.room == 0 {
            self.over += data.len();
            return Ok(data.len());
        }
        let n = self.out.write(&data[..data.len().min(self.room)])?;
        self.room -= n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
