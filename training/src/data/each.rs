//! All documents, one by one, before there is a tokenizer.

use std::ops::ControlFlow;

use super::{DataError, Source, document::Content, formats};

/// A document as it is read.
pub(crate) struct RawDocument(Content);

impl RawDocument {
    /// Whether it is a conversation.
    pub(crate) fn is_chat(&self) -> bool {
        matches!(self.0, Content::Chat(_))
    }

    /// The text, or those of the messages.
    pub(crate) fn into_texts(self) -> Vec<String> {
        match self.0 {
            Content::Text(text) | Content::Part(text) => vec![text],
            Content::Chat(messages) => messages.into_iter().map(|message| message.content).collect(),
        }
    }
}

/// Reads the documents of all files, in order, until `visit` breaks.
pub(crate) fn each_document(
    source: &Source,
    visit: &mut dyn FnMut(RawDocument) -> Result<ControlFlow<()>, DataError>,
) -> Result<(), DataError> {
    for file in source.files()? {
        let mut each = |document: super::document::Document, _: u64| visit(RawDocument(document.content));
        if formats::read(&file, source.separator.as_deref(), &mut each)?.is_break() {
            break;
        }
    }
    Ok(())
}
