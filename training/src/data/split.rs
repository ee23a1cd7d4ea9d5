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

/// How the data is to be split.
pub(crate) enum Split {
    /// Fewer than [`FEW`] documents, all of them.
    Few(Vec<Document>),
    /// More.
    Many(HeldOut),
}

/// Looks at documents until it is clear how to split them, which is soon: when there are [`FEW`] and one of those seen
/// is held out.
pub(crate) fn plan(files: &[DataFile], separator: Option<&str>, one_in: u64) -> Result<Split, DataError> {
    let (mut few, mut seen, mut smallest, mut found) = (Vec::new(), 0, u64::MAX, false);
    for file in files {
        let flow = formats::read(file, separator, &mut |document, _| {
            let hash = document.content.hash();
            smallest = smallest.min(hash);
            found |= HeldOut::OneIn(one_in).holds(hash);
            seen += 1;
            if seen < FEW {
                few.push(document);
            } else {
                few.clear();
            }
            Ok(if seen >= FEW && found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if flow.is_break() {
            break;
        }
    }
    Ok(match (seen < FEW, found) {
        (true, _) => Split::Few(few),
        (false, true) => Split::Many(HeldOut::OneIn(one_in)),
        (false, false) => Split::Many(HeldOut::Hash(smallest)),
    })
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
    /// The one with this hash: the smallest, where chance holds none out.
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
