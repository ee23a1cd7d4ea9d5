//! Documents from files.

mod jsonl;
mod parquet;
mod text;

use std::ops::ControlFlow;

use serde_json::Value;

pub(crate) use jsonl::each_object;

use super::{
    DataError, Place,
    document::{Content, Document, messages},
    source::{DataFile, Format},
};

/// What is done with each document; the number says how many bytes of its file are read once it is done.
pub(crate) type Visit<'a> = dyn FnMut(Document, u64) -> Result<ControlFlow<()>, DataError> + 'a;

/// Reads the documents of a file, in order, until `visit` breaks. Documents without text are passed over.
///
/// # Errors
/// [`DataError::Empty`] when there are no documents, those of the format with line or row, and those of `visit`.
pub(crate) fn read(
    file: &DataFile,
    separator: Option<&str>,
    visit: &mut Visit<'_>,
) -> Result<ControlFlow<()>, DataError> {
    let mut any = false;
    let mut visit = |document: Document, at: u64| {
        if document.content.len() == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        any = true;
        visit(document, at)
    };
    let flow = match file.format {
        Format::Text => text::read(file, separator, &mut visit)?,
        Format::JsonLines => {
            each_object(file, &mut |value, place, at| visit(Document { content: content(&value, &place)?, place }, at))?
        }
        Format::Parquet => parquet::read(file, &mut visit)?,
    };
    if any { Ok(flow) } else { Err(DataError::Empty { path: file.path.clone() }) }
}

/// The content of an object with `messages` or, where it has none, `text`.
fn content(value: &Value, place: &Place) -> Result<Content, DataError> {
    match (value.get("messages"), value.get("text")) {
        (Some(list), _) => Ok(Content::Chat(messages(list, "messages", place)?)),
        (None, Some(Value::String(text))) => Ok(Content::Text(text.clone())),
        (None, Some(_)) => Err(DataError::record(place, "\"text\" is not a text")),
        (None, None) => Err(DataError::record(place, "has neither \"text\" nor \"messages\"")),
    }
}

/// Text without the mark that some editors put before it, which is not part of it.
fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes)
}
