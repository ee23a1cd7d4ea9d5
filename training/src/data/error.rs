//! Everything that can be wrong with training data, by name.

use std::{io, path::PathBuf};

use bitnet_text::TextError;

use super::Place;

/// Why data could not be read or made into batches.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or folder cannot be read, or the cache not written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is empty, or holds nothing but separators and blank lines.
    #[error("{}: there is no text in it", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// No data file was given, or a folder holds none.
    #[error("{}: no data in it ({FORMATS})", .path.display())]
    NoFiles {
        /// The folder.
        path: PathBuf,
    },
    /// A file whose name does not say how to read it.
    #[error("{}: not a known kind of data file ({FORMATS})", .path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// Bytes that are not text.
    #[error("{place}: not text ({reason}); is it a binary file?")]
    NotText {
        /// File, and line where the format has lines.
        place: Place,
        /// What was found, and where.
        reason: String,
    },
    /// A line that is not JSON, a row that cannot be read, or one without the fields that are needed.
    #[error("{place}: {reason}")]
    Record {
        /// File, and line or row.
        place: Place,
        /// What is wrong or missing.
        reason: String,
    },
    /// A text that the tokenizer or its chat template refuses.
    #[error("{place}: {source}")]
    Text {
        /// File, and line or row.
        place: Place,
        /// Why.
        source: TextError,
    },
    /// The chat template writes earlier turns differently once later ones follow, so that what the model sees when it
    /// replies is not what it would be trained on.
    #[error("{place}: the chat template rewrites the conversation before turn {turn} when more turns follow")]
    TemplateRewrites {
        /// File, and line or row.
        place: Place,
        /// Number of the assistant's turn, from 1, all turns counted.
        turn: usize,
    },
    /// Nothing is left to train on.
    #[error("nothing to train on: {reason}")]
    NothingToTrain {
        /// Where it all went.
        reason: String,
    },
    /// Nothing is left to validate on.
    #[error("nothing to validate on: {reason}")]
    NothingToValidate {
        /// Why not.
        reason: String,
    },
    /// An option outside its range.
    #[error("{name} must be {range}, not {value}")]
    Option {
        /// The option.
        name: &'static str,
        /// What it may be.
        range: &'static str,
        /// What it is.
        value: u64,
    },
    /// A cache of tokens that is not whole.
    #[error("{}: not a whole token cache: {reason}; delete it to have it made again", .path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

const FORMATS: &str = ".txt, .md, .jsonl and .parquet files are read";

impl DataError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn record(place: &Place, reason: impl Into<String>) -> Self {
        Self::Record { place: place.clone(), reason: reason.into() }
    }

    pub(crate) fn text(place: &Place) -> impl FnOnce(TextError) -> Self {
        let place = place.clone();
        move |source| Self::Text { place, source }
    }
}
