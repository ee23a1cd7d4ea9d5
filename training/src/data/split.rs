//! Which part of the data is held out.

use std::ops::ControlFlow;

use super::{
    DataError,
    document::{Content, Document},
    formats,
    source::DataFile,
};

/// With fewer documents than this, a share of the text is held out instead of a share of the documents.
pub(crate) const FEW: usize = 20;

/// Of a few documents, the last tenth of their text is held out.
const TENTHS_TO_TRAIN: u128 = 9;

/// All documents, when they are fewer than [`FEW`].
pub(crate) fn few(files: &[DataFile], separator: Option<&str>) -> Result<Option<Vec<Document>>, DataError> {
    let mut documents = Vec::new();
    for file in files {
        let flow = formats::read(file, separator, &mut |document, _| {
            documents.push(document);
            Ok(if documents.len() < FEW { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        if flow.is_break() {
            return Ok(None);
        }
    }
    Ok(Some(documents))
}

/// Cuts the documents, one after the other, in two: the first nine tenths of their bytes, and the last tenth. A text is
/// cut between two characters, wherever that is; a conversation is held out as a whole.
pub(crate) fn cut(documents: Vec<Document>) -> (Vec<Document>, Vec<Document>) {
    let total: usize = documents.iter().map(|document| document.content.len()).sum();
    let mut left = (total as u128 * TENTHS_TO_TRAIN / 10) as usize;
    let (mut train, mut valid) = (Vec::new(), Vec::new());
    for Document { content, place } in documents {
        let len = content.len();
        match content {
            content if len <= left => train.push(Document { content, place }),
            Content::Text(text) | Content::Part(text) if text.floor_char_boundary(left) > 0 => {
                let (before, after) = text.split_at(text.floor_char_boundary(left));
                train.push(Document { content: Content::Part(before.into()), place: place.clone() });
                valid.push(Document { content: Content::Part(after.into()), place });
            }
            content => valid.push(Document { content, place }),
        }
        left = left.saturating_sub(len);
    }
    (train, valid)
}

/// Which documents of many are held out: a function of their content alone, so that the same text is never on both
/// sides, and stays on its side when others come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeldOut {
    /// None.
    Nothing,
    /// One in so many, by hash.
    OneIn(u64),
    /// The one with this hash.
    Hash(u64),
}

impl HeldOut {
    pub(crate) fn holds(self, hash: u64) -> bool {
        match self {
            Self::Nothing => false,
            Self::OneIn(n) => hash.is_multiple_of(n),
            Self::Hash(one) => hash == one,
        }
    }
}

#[cfg(test)]
mod tests {
    use bitnet_text::{Message, Role};

    use super::*;
    use crate::data::Place;

    fn document(content: Content) -> Document {
        Document { content, place: Place::file("a".as_ref()) }
    }

    fn contents(documents: Vec<Document>) -> Vec<Content> {
        documents.into_iter().map(|document| document.content).collect()
    }

    fn cut_texts(texts: &[&str]) -> (Vec<Content>, Vec<Content>) {
        let (train, valid) = cut(texts.iter().map(|&text| document(Content::Text(text.into()))).collect());
        (contents(train), contents(valid))
    }

    #[test]
    fn the_last_tenth_of_the_text() {
        let (text, part) = (|s: &str| Content::Text(s.into()), |s: &str| Content::Part(s.into()));
        assert_eq!(cut_texts(&["0123456789"]), (vec![part("012345678")], vec![part("9")]));
        assert_eq!(cut_texts(&["012345", "6789"]), (vec![text("012345"), part("678")], vec![part("9")]));
        assert_eq!(cut_texts(&["012345678", "9"]), (vec![text("012345678")], vec![text("9")]));
        // Byte 9 is inside the last character but one.
        assert_eq!(cut_texts(&["0123456é9"]), (vec![part("0123456é")], vec![part("9")]));
        assert_eq!(cut_texts(&["éé"]), (vec![part("é")], vec![part("é")]));
        assert_eq!(cut_texts(&["é"]), (vec![], vec![text("é")]));
    }

    #[test]
    fn conversations_stay_whole() {
        let chat = |n: usize| Content::Chat(vec![Message::new(Role::User, "x".repeat(n))]);
        let (train, valid) = cut([chat(10), chat(10), chat(10)].map(document).to_vec());
        assert_eq!((contents(train), contents(valid)), (vec![chat(10), chat(10)], vec![chat(10)]));
    }
}
