//! Writing burnpack files.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Serialize;
use tempfile::NamedTempFile;

use super::{ALIGNMENT, HEADER, MAGIC, MAX_DESCRIPTION, VERSION, name_of};
use crate::atomic::Target;
use crate::{FormatError, StorageType};

/// Fills the room that was left for the description.
pub(crate) const PADDING: &str = "padding";

/// A file in the making: tensors are streamed one after the other, and then described in the room that was left at the
/// beginning. So the shape of a tensor need not be known before its data is there.
///
/// Dropped before [`finish_unnamed`](Self::finish_unnamed), it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Writer {
    target: Target,
    out: BufWriter<NamedTempFile>,
    texts: BTreeMap<String, String>,
    tensors: BTreeMap<String, Described>,
    /// Where the first tensor begins.
    start: usize,
    /// Where the next byte goes.
    at: usize,
}

#[derive(Debug, Serialize)]
struct Description<'a> {
    tensors: &'a BTreeMap<String, Described>,
    metadata: &'a BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Described {
    dtype: &'static str,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Writer {
    /// Begins a file beside `path` that will have `texts`, some more of at most `more` bytes, and tensors with these names and
    /// numbers of dimensions.
    ///
    /// # Errors
    ///
    /// When `path` exists and `overwrite` is false, its folder cannot be written to, or the texts are too long.
    pub(crate) fn create(
        path: &Path,
        overwrite: bool,
        texts: BTreeMap<String, String>,
        more: usize,
        tensors: impl Iterator<Item = (String, usize)>,
    ) -> Result<Self, FormatError> {
        let longest = |dimensions| Described {
            dtype: "BF16",
            shape: vec![u64::MAX; dimensions],
            data_offsets: (u64::MAX, u64::MAX),
        };
        let tensors: BTreeMap<_, _> = tensors.map(|(name, dimensions)| (name, longest(dimensions))).collect();
        // With the key of the padding and the longest word for how long it is.
        let room = HEADER + encode(&Description { tensors: &tensors, metadata: &texts }).len() + more + 32;
        let start = room.next_multiple_of(ALIGNMENT);
        if start > MAX_DESCRIPTION {
            return Err(FormatError::unsupported(path, "a tokenizer of more than 100 MB in a burnpack file"));
        }
        let (target, file) = Target::begin(path, overwrite, ".new-", ".bpk")?;
        let wrap = |error| FormatError::io(path, error);
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&vec![0; start]).map_err(wrap)?;
        Ok(Self { target, out, texts, tensors: BTreeMap::new(), start, at: start })
    }

    /// Adds a text, of the bytes for which room was left.
    pub(crate) fn text(&mut self, key: &str, text: String) {
        self.texts.insert(key.to_string(), text);
    }

    /// Adds a tensor, whose bytes `data` writes.
    ///
    /// # Errors
    ///
    /// When writing fails, or `data` writes another number of bytes than type and shape give.
    pub(crate) fn tensor(
        &mut self,
        name: &str,
        dtype: StorageType,
        shape: &[usize],
        data: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), FormatError> {
        let path = self.target.path();
        let wrap = |error| FormatError::io(path, error);
        let begin = self.at.next_multiple_of(ALIGNMENT);
        self.out.write_all(&vec![0; begin - self.at]).map_err(wrap)?;
        let mut counted = Counted { out: &mut self.out, written: 0 };
        data(&mut counted).map_err(wrap)?;
        self.at = begin + counted.written;
        let refuse = |reason: String| FormatError::tensor(path, name, reason);
        if dtype.byte_len(shape) != Some(self.at - begin) {
            return Err(refuse(format!("has {} bytes of data, which are not {dtype} {shape:?}", self.at - begin)));
        }
        let offset = |at: usize| (at - self.start) as u64;
        let described = Described {
            dtype: name_of(dtype)
                .ok_or_else(|| refuse(format!("has the type {dtype}, which burnpack has no name for")))?,
            shape: shape.iter().map(|dim| *dim as u64).collect(),
            data_offsets: (offset(begin), offset(self.at)),
        };
        match self.tensors.insert(name.to_string(), described) {
            Some(_) => Err(refuse("is given twice".to_string())),
            None => Ok(()),
        }
    }

    /// Describes the tensors and gives the file, which has no name yet.
    ///
    /// # Errors
    ///
    /// When there are more names and texts than room was left for, or writing fails.
    pub(crate) fn finish_unnamed(mut self) -> Result<(Target, NamedTempFile), FormatError> {
        let description = self.padded()?;
        let wrap = |error| FormatError::io(self.target.path(), error);
        let mut file = self.out.into_inner().map_err(|error| wrap(error.into_error()))?;
        let mut header = Vec::with_capacity(HEADER + description.len());
        header.extend(MAGIC.to_le_bytes());
        header.extend(VERSION.to_le_bytes());
        // It has less than `MAX_DESCRIPTION` bytes.
        header.extend((description.len() as u32).to_le_bytes());
        header.extend(description);
        file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&header)).map_err(wrap)?;
        Ok((self.target, file))
    }

    /// The description, so long that the tensors begin where they do.
    fn padded(&mut self) -> Result<Vec<u8>, FormatError> {
        let mut describe = |padding: usize| {
            self.texts.insert(PADDING.to_string(), " ".repeat(padding));
            encode(&Description { tensors: &self.tensors, metadata: &self.texts })
        };
        let missing = (self.start - HEADER).checked_sub(describe(0).len());
        // A few bytes less, for the word that says how long the padding is.
        let description = missing.map(|missing| describe(missing.saturating_sub(8)));
        description
            .filter(|text| (HEADER + text.len()).next_multiple_of(ALIGNMENT) == self.start)
            .ok_or_else(|| FormatError::unsupported(self.target.path(), "more names and texts than room was left for"))
    }
}

fn encode(description: &Description<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(description, &mut bytes)
        .expect("texts and numbers have a form in CBOR, and memory takes them");
    bytes
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
