//! One document, before it is tokenized.

use std::{fmt, path::Path, sync::Arc};

use bitnet_text::Message;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::DataError;

/// Where a document stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: Arc<Path>,
    /// Line of a text file or row of a table, from 1.
    pub at: Option<At>,
}

/// A place inside a file, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// A line of a text file.
    Line(u64),
    /// A row of a table.
    Row(u64),
}

impl Place {
    pub(crate) fn file(path: &Path) -> Self {
        Self { path: path.into(), at: None }
    }

    pub(crate) fn line(&self, line: u64) -> Self {
        Self { path: Arc::clone(&self.path), at: Some(At::Line(line)) }
    }

    pub(crate) fn row(&self, row: u64) -> Self {
        Self { path: Arc::clone(&self.path), at: Some(At::Row(row)) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.at {
            None => write!(f, "{path}"),
            Some(At::Line(line)) => write!(f, "{path}:{line}"),
            Some(At::Row(row)) => write!(f, "{path}, row {row}"),
        }
    }
}

/// A text or a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Every token of it is to be learned.
    Text(String),
    /// Part of a text that was cut in two: as [`Content::Text`], but its end is not the end of a text.
    Part(String),
    /// What the assistant says is to be learned.
    Chat(Vec<Message>),
}

impl Content {
    /// UTF-8 bytes of the text, or of all messages.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Text(text) | Self::Part(text) => text.len(),
            Self::Chat(messages) => messages.iter().map(|m| m.content.len()).sum(),
        }
    }

    /// A number that depends on the content alone, evenly spread: the first eight bytes of a SHA-256.
    pub(crate) fn hash(&self) -> u64 {
        let mut hash = Sha256::new();
        match self {
            Self::Text(text) | Self::Part(text) => hash.update(text),
            Self::Chat(messages) => {
                for message in messages {
                    hash.update(message.role.as_str());
                    hash.update([0]);
                    hash.update(&message.content);
                    hash.update([0]);
                }
            }
        }
        let digest = hash.finalize();
        digest.iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte))
    }
}

/// A document and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    pub content: Content,
    pub place: Place,
}

/// Messages of a conversation, from JSON: a list of `{"role": ..., "content": ...}`.
pub(crate) fn messages(value: &Value, field: &str, place: &Place) -> Result<Vec<Message>, DataError> {
    let list = value.as_array().ok_or_else(|| DataError::record(place, format!("{field:?} is not a list")))?;
    let message = |(i, value): (usize, &Value)| {
        let text = |key: &str| {
            let what = || DataError::record(place, format!("message {} of {field:?} has no text {key:?}", i + 1));
            value.get(key).and_then(Value::as_str).ok_or_else(what)
        };
        let role = text("role")?.parse().map_err(DataError::text(place))?;
        Ok(Message::new(role, text("content")?))
    };
    list.iter().enumerate().map(message).collect()
}
