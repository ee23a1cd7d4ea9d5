//! Files of weights that are ready to run, kept from one start to the next.
//!
//! ```text
//! "bitnetW1"   key [32]   bytes of the table u32   its CRC-32C u32   table   parts, each from a multiple of 64 bytes on
//! table        for each part: bytes of its name u16, name, offset u64, bytes u64, CRC-32C u32
//! ```
//!
//! All numbers are little-endian. The key says what the parts were made of. A part is checked when it is asked for, so a
//! file that was cut off or damaged is an error and never a wrong weight.

use std::collections::HashMap;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::NamedTempFile;

use crate::FormatError;
use crate::atomic::parent;
use crate::blob::{Blob, Folder};

const MAGIC: &[u8; 8] = b"bitnetW1";

/// Bytes before the table.
const HEAD: usize = 8 + 32 + 4 + 4;

/// A line of a processor's cache.
const ALIGNMENT: usize = 64;

/// A file of prepared weights, mapped.
#[derive(Debug)]
pub struct PreparedFile {
    blob: Blob,
    parts: HashMap<String, (Range<usize>, u32)>,
}

impl PreparedFile {
    /// Opens a file whose parts were made of what has this key.
    ///
    /// # Errors
    ///
    /// When there is none, when its key is another one, or when it is damaged.
    pub fn open(path: &Path, key: &[u8; 32]) -> Result<Self, FormatError> {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| FormatError::not_a_model(path, "the file name is not UTF-8"))?;
        let blob = Folder::Disk(parent(path).to_path_buf()).open(name)?;
        let damaged = |reason: &str| FormatError::Damaged { file: path.to_path_buf(), reason: reason.to_string() };
        let bytes = blob.bytes();
        let mut reader = Reader(bytes);
        if reader.take(8) != Some(MAGIC) {
            return Err(damaged("no prepared weights of this version"));
        }
        if reader.take(32) != Some(key) {
            return Err(damaged("of another model, or of an earlier version of it"));
        }
        let table = (|| {
            let (len, checksum) = (reader.u32()?, reader.u32()?);
            let table = reader.take(len as usize)?;
            (crc32c::crc32c(table) == checksum).then_some(table)
        })();
        let parts = table.and_then(|table| read_table(table, bytes.len()));
        let parts = parts.ok_or_else(|| damaged("its table of parts"))?;
        Ok(Self { blob, parts })
    }

    /// A part, once all of its bytes are found right.
    ///
    /// # Errors
    ///
    /// When there is no such part, or it is damaged.
    pub fn part(&self, name: &str) -> Result<Bytes, FormatError> {
        let damaged = |reason| FormatError::Damaged { file: self.blob.path().to_path_buf(), reason };
        let (range, checksum) = self.parts.get(name).ok_or_else(|| damaged(format!("it has no part {name}")))?;
        let part = self.blob.bytes().slice(range.clone());
        if crc32c::crc32c(&part) != *checksum {
            return Err(damaged(format!("part {name} has changed")));
        }
        Ok(part)
    }

    /// Whether there is such a part.
    pub fn has(&self, name: &str) -> bool {
        self.parts.contains_key(name)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.blob.path()
    }
}

fn read_table(table: &[u8], file: usize) -> Option<HashMap<String, (Range<usize>, u32)>> {
    let mut reader = Reader(table);
    let mut parts = HashMap::new();
    while !reader.0.is_empty() {
        let name = usize::from(u16::from_le_bytes(reader.array()?));
        let name = std::str::from_utf8(reader.take(name)?).ok()?.to_string();
        let start = usize::try_from(u64::from_le_bytes(reader.array()?)).ok()?;
        let len = usize::try_from(u64::from_le_bytes(reader.array()?)).ok()?;
        let end = start.checked_add(len).filter(|end| *end <= file)?;
        parts.insert(name, (start..end, reader.u32()?));
    }
    Some(parts)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
}

/// Writes a [`PreparedFile`], which appears whole or not at all.
pub struct PreparedWriter {
    path: PathBuf,
    file: NamedTempFile,
    key: [u8; 32],
    /// Names and where their parts are, as far as they are written.
    names: Vec<String>,
    written: Vec<(u64, u64, u32)>,
    end: u64,
}

impl PreparedWriter {
    /// Begins a file with parts of these names, for what has this key. The folder is made if it is not there.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn new(path: &Path, key: &[u8; 32], names: Vec<String>) -> Result<Self, FormatError> {
        let wrap = |e| FormatError::io(path, e);
        std::fs::create_dir_all(parent(path)).map_err(wrap)?;
        let file = tempfile::Builder::new().prefix(".prepared-").tempfile_in(parent(path)).map_err(wrap)?;
        let table: usize = names.iter().map(|name| 2 + name.len() + 8 + 8 + 4).sum();
        let end = (HEAD + table).next_multiple_of(ALIGNMENT) as u64;
        Ok(Self { path: path.to_path_buf(), file, key: *key, names, written: Vec::new(), end })
    }

    /// Writes the next part, which is `pieces` one after the other.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn part(&mut self, pieces: &[&[u8]]) -> Result<(), FormatError> {
        let wrap = |e| FormatError::io(&self.path, e);
        self.file.seek(SeekFrom::Start(self.end)).map_err(wrap)?;
        let (mut len, mut checksum) = (0, 0);
        for piece in pieces {
            self.file.write_all(piece).map_err(wrap)?;
            len += piece.len() as u64;
            checksum = crc32c::crc32c_append(checksum, piece);
        }
        self.written.push((self.end, len, checksum));
        self.end = (self.end + len).next_multiple_of(ALIGNMENT as u64);
        Ok(())
    }

    /// Gives the file its name; gives how many bytes it has.
    ///
    /// What is lost with the power is found damaged later and made again, so nobody waits for the disk here.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    ///
    /// # Panics
    ///
    /// When not every part was written.
    pub fn finish(mut self) -> Result<u64, FormatError> {
        assert_eq!(self.names.len(), self.written.len(), "a part for each name");
        let mut table = Vec::new();
        for (name, (start, len, checksum)) in self.names.iter().zip(&self.written) {
            let size = u16::try_from(name.len()).expect("names of tensors are short");
            table.extend_from_slice(&size.to_le_bytes());
            table.extend_from_slice(name.as_bytes());
            table.extend_from_slice(&start.to_le_bytes());
            table.extend_from_slice(&len.to_le_bytes());
            table.extend_from_slice(&checksum.to_le_bytes());
        }
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&self.key);
        head.extend_from_slice(&(table.len() as u32).to_le_bytes());
        head.extend_from_slice(&crc32c::crc32c(&table).to_le_bytes());
        head.extend_from_slice(&table);
        let wrap = |e| FormatError::io(&self.path, e);
        self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(&head)).map_err(wrap)?;
        self.file.as_file().set_len(self.end).map_err(wrap)?;
        self.file.persist(&self.path).map_err(|e| wrap(e.error))?;
        Ok(self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, key: &[u8; 32]) {
        let mut writer = PreparedWriter::new(path, key, vec!["first".to_string(), "second".to_string()]).unwrap();
        writer.part(&[b"one", &[7; 100]]).unwrap();
        writer.part(&[&[]]).unwrap();
        assert_eq!(writer.finish().unwrap() % 64, 0);
    }

    #[test]
    fn what_was_written_comes_back_under_its_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new folder").join("x.weights");
        assert!(matches!(PreparedFile::open(&path, &[1; 32]), Err(FormatError::Io { .. })));
        write(&path, &[1; 32]);
        let file = PreparedFile::open(&path, &[1; 32]).unwrap();
        let part = file.part("first").unwrap();
        assert_eq!((&part[..3], part.len()), (&b"one"[..], 103));
        assert!(file.part("second").unwrap().is_empty() && file.has("second"));
        assert!(file.part("third").is_err());
        assert!(PreparedFile::open(&path, &[2; 32]).unwrap_err().to_string().contains("another model"));
        // A new one replaces the old one, and nothing else stays in the folder.
        write(&path, &[3; 32]);
        PreparedFile::open(&path, &[3; 32]).unwrap();
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.weights");
        write(&path, &[1; 32]);
        let whole = std::fs::read(&path).unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let file = PreparedFile::open(&path, &[1; 32])?;
            Ok::<_, FormatError>((file.part("first")?, file.part("second")?))
        };
        let right = read(&whole).unwrap();
        for len in 0..whole.len() {
            if let Ok(parts) = read(&whole[..len]) {
                assert_eq!(parts, right, "only the padding at the end may be missing");
            }
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            if let Ok(parts) = read(&damaged) {
                assert_eq!(parts, right, "only padding may change: {at}");
            }
        }
    }
}
