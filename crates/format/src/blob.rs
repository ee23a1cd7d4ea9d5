//! The bytes of one file, mapped or embedded, and the folder it came from.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;

use crate::FormatError;

/// Pages are let go in units of this size, a multiple of the page size of every system this runs on (4, 16 or 64 KiB).
const RELEASE_UNIT: usize = 64 * 1024;

/// All bytes of one file, shared and read-only.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    path: PathBuf,
    bytes: Bytes,
    map: Option<Arc<Mmap>>,
}

/// Lets [`Bytes`] keep a map alive.
struct MapOwner(Arc<Mmap>);

impl AsRef<[u8]> for MapOwner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Blob {
    /// Maps a file. Nothing is read until it is touched.
    fn map(path: &Path) -> Result<Self, FormatError> {
        // Looked at before it is opened: opening a pipe waits for its writer.
        let info = path.metadata().map_err(|e| FormatError::io(path, e))?;
        if info.is_dir() {
            let error = io::Error::from(io::ErrorKind::IsADirectory);
            return Err(FormatError::io(path, error));
        }
        if !info.is_file() {
            return Err(FormatError::io(path, io::Error::other("not a regular file")));
        }
        let file = File::open(path).map_err(|e| FormatError::io(path, e))?;
        let info = file.metadata().map_err(|e| FormatError::io(path, e))?;
        if info.len() == 0 {
            return Ok(Self { path: path.to_path_buf(), bytes: Bytes::new(), map: None });
        }
        // SAFETY: the map is read-only and every reader bounds-checks against its fixed length. As with any mapped
        // file, a program that truncates or rewrites the model while it is open breaks this; `open` documents it.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| FormatError::io(path, e))?;
        let map = Arc::new(map);
        Ok(Self { path: path.to_path_buf(), bytes: Bytes::from_owner(MapOwner(Arc::clone(&map))), map: Some(map) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Tells the system that the whole pages inside `range` are not needed for now. They come back from the file when
    /// they are read again.
    pub(crate) fn release(&self, range: Range<usize>) {
        let start = range.start.next_multiple_of(RELEASE_UNIT);
        let end = range.end / RELEASE_UNIT * RELEASE_UNIT;
        #[cfg(unix)]
        if let Some(map) = &self.map
            && start < end
        {
            // SAFETY: the map is a shared read-only view of a file, so dropped pages are refilled from that same file.
            let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
            // A refusal costs memory, never correctness.
            let _ = advised;
        }
        #[cfg(not(unix))]
        let _ = (start, end, &self.map);
    }
}

/// Where the files of a checkpoint are found by name: a directory, byte slices compiled into the program, or texts inside
/// another file.
#[derive(Debug, Clone)]
pub(crate) enum Folder<'a> {
    Disk(PathBuf),
    Memory(&'a [(&'a str, &'static [u8])]),
    Inside(&'a Path, &'a BTreeMap<String, String>),
}

impl Folder<'_> {
    /// The path that errors name.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Disk(folder) => folder.join(name),
            Self::Memory(_) => PathBuf::from(name),
            Self::Inside(file, _) => file.join(name),
        }
    }

    pub(crate) fn open(&self, name: &str) -> Result<Blob, FormatError> {
        match self {
            Self::Disk(folder) => Blob::map(&folder.join(name)),
            Self::Memory(files) => files
                .iter()
                .find(|(file, _)| *file == name)
                .map(|(file, bytes)| Blob { path: PathBuf::from(file), bytes: Bytes::from_static(bytes), map: None })
                .ok_or_else(|| FormatError::io(Path::new(name), io::Error::from(io::ErrorKind::NotFound))),
            Self::Inside(file, texts) => texts
                .get(name)
                .map(|text| Blob { path: file.join(name), bytes: Bytes::from(text.clone()), map: None })
                .ok_or_else(|| FormatError::io(&file.join(name), io::Error::from(io::ErrorKind::NotFound))),
        }
    }

    /// [`open`](Self::open), with `None` for a file that does not exist.
    pub(crate) fn open_optional(&self, name: &str) -> Result<Option<Blob>, FormatError> {
        match self.open(name) {
            Ok(blob) => Ok(Some(blob)),
            Err(FormatError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Names of the files, sorted. Names that are not UTF-8 are left out: no model file has one.
    pub(crate) fn names(&self) -> Result<Vec<String>, FormatError> {
        let mut names = match self {
            Self::Memory(files) => files.iter().map(|(name, _)| name.to_string()).collect(),
            Self::Inside(_, texts) => texts.keys().cloned().collect(),
            Self::Disk(folder) => {
                let mut names = Vec::new();
                for entry in fs::read_dir(folder).map_err(|e| FormatError::io(folder, e))? {
                    let entry = entry.map_err(|e| FormatError::io(folder, e))?;
                    if let Ok(name) = entry.file_name().into_string() {
                        names.push(name);
                    }
                }
                names
            }
        };
        names.sort();
        Ok(names)
    }
}
