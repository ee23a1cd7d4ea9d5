//! From ids to text, piece by piece.

use std::sync::Arc;

use crate::{TextError, tokenizer::Vocabulary};

/// Turns a stream of ids into text that can be printed at once.
///
/// A piece never ends inside a character: bytes that may still become one are held back (at most three), and bytes
/// that cannot any more are replaced by U+FFFD. The pieces, with [`finish`](Self::finish), concatenate to what
/// [`Tokenizer::decode`](crate::Tokenizer::decode) gives for all ids at once.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    vocabulary: Arc<Vocabulary>,
    utf8: Utf8Stream,
    skip_special: bool,
    /// Nothing came before: a SentencePiece model's prefix space is not part of the text.
    at_start: bool,
}

impl Detokenizer {
    pub(crate) fn new(vocabulary: Arc<Vocabulary>, skip_special: bool, at_start: bool) -> Self {
        Self { vocabulary, utf8: Utf8Stream::default(), skip_special, at_start }
    }

    /// Takes the next id and gives the text that is certain now; empty while a character is incomplete and for
    /// special tokens.
    ///
    /// # Errors
    /// [`TextError::UnknownId`] for an id that no token has; the stream can go on after it.
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        let vocabulary = &self.vocabulary;
        let mut bytes = vocabulary.spelling.bytes(id)?;
        if self.skip_special && vocabulary.special.contains(&id) {
            return Ok(String::new());
        }
        if self.at_start && !bytes.is_empty() {
            self.at_start = false;
            if vocabulary.spelling.strips_prefix_space() {
                bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            }
        }
        Ok(self.utf8.push(bytes))
    }

    /// Ends the stream: what is left of an incomplete character is U+FFFD.
    pub fn finish(&mut self) -> String {
        self.utf8.finish()
    }
}

/// Decodes UTF-8 that arrives in arbitrary cuts, as `String::from_utf8_lossy` would decode the whole.
#[derive(Clone, Debug, Default)]
struct Utf8Stream {
    pending: Vec<u8>,
}

impl Utf8Stream {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    match error.error_len() {
                        Some(bad) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &rest[bad..];
                        }
                        None => break,
                    }
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    fn finish(&mut self) -> String {
        let left = std::mem::take(&mut self.pending);
        String::from_utf8_lossy(&left).into_owned()
    }
}
