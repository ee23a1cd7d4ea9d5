//! Which files the data is in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::DataError;

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    /// UTF-8 text: one document, or several with separators between them.
    Text,
    /// One JSON object a line.
    JsonLines,
    /// Parquet: one document a row.
    Parquet,
}

impl Format {
    /// By the ending of the name. A name without one is taken for text.
    fn of(path: &Path) -> Option<Self> {
        let Some(ending) = path.extension() else { return Some(Self::Text) };
        match ending.to_str()?.to_ascii_lowercase().as_str() {
            "txt" | "md" => Some(Self::Text),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// One file of data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataFile {
    pub path: PathBuf,
    pub format: Format,
    /// In bytes.
    pub size: u64,
}

/// Where documents come from: files, and folders that hold files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Files and folders. Folders are searched recursively for files whose names end in `.txt`, `.md`, `.jsonl` or
    /// `.parquet`, in the order of their names; hidden ones and links to folders are passed over.
    pub paths: Vec<PathBuf>,
    /// Text that stands between the documents of a text file, such as `<|endoftext|>`, with the line break before it and
    /// the one after it. Without one, a text file is one document.
    pub separator: Option<String>,
}

impl Source {
    /// One file or folder, without a separator.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { paths: vec![path.into()], separator: None }
    }

    /// The files, in order.
    pub(crate) fn files(&self) -> Result<Vec<DataFile>, DataError> {
        let mut files = Vec::new();
        for path in &self.paths {
            let info = fs::metadata(path).map_err(DataError::io(path))?;
            if info.is_dir() {
                let before = files.len();
                search(path, &mut files)?;
                if files.len() == before {
                    return Err(DataError::NoFiles { path: path.clone() });
                }
            } else {
                let format = Format::of(path).ok_or_else(|| DataError::UnknownFormat { path: path.clone() })?;
                push(path.clone(), format, &info, &mut files)?;
            }
        }
        if files.is_empty() {
            return Err(DataError::NoFiles { path: PathBuf::new() });
        }
        Ok(files)
    }
}

fn push(path: PathBuf, format: Format, info: &fs::Metadata, files: &mut Vec<DataFile>) -> Result<(), DataError> {
    if !info.is_file() {
        // A pipe would be waited for, and can be read only once.
        let source = std::io::Error::other("not a regular file");
        return Err(DataError::Io { path, source });
    }
    if info.len() == 0 {
        return Err(DataError::Empty { path });
    }
    files.push(DataFile { path, format, size: info.len() });
    Ok(())
}

fn search(folder: &Path, files: &mut Vec<DataFile>) -> Result<(), DataError> {
    let io = || DataError::io(folder);
    let mut entries = fs::read_dir(folder).map_err(io())?.collect::<Result<Vec<_>, _>>().map_err(io())?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().map_err(DataError::io(&path))?.is_dir() {
            search(&path, files)?;
        } else if path.extension().is_some()
            && let Some(format) = Format::of(&path)
        {
            let info = fs::metadata(&path).map_err(DataError::io(&path))?;
            if !info.is_dir() {
                push(path, format, &info, files)?;
            }
        }
    }
    Ok(())
}
