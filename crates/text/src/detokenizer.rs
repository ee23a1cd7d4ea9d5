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

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::{GgufVocabulary, Tokenizer};

    proptest! {
        #[test]
        fn any_cut_decodes_as_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..40), text in ".{0,8}", cut in 1usize..5) {
            for bytes in [bytes, text.into_bytes()] {
                let mut stream = Utf8Stream::default();
                let mut decoded = String::new();
                for piece in bytes.chunks(cut) {
                    decoded.push_str(&stream.push(piece));
                    prop_assert!(stream.pending.len() < 4);
                }
                decoded.push_str(&stream.finish());
                prop_assert_eq!(decoded, String::from_utf8_lossy(&bytes));
            }
        }
    }

    /// `<unk>`, 256 byte tokens from id 1, then pieces from id 257.
    fn pieces(add_space_prefix: Option<bool>) -> Tokenizer {
        let mut tokens = vec!["<unk>".to_owned()];
        tokens.extend((0..=255).map(|b| format!("<0x{b:02X}>")));
        tokens.extend(["▁", "a", "▁a", "<s>"].map(String::from));
        let mut token_types = vec![6; 257];
        token_types[0] = 2;
        token_types.extend([1, 1, 1, 3]);
        let scores = (0..tokens.len()).map(|i| i as f32).collect();
        let vocab = GgufVocabulary { model: "llama".into(), tokens, token_types, scores, ..GgufVocabulary::default() };
        Tokenizer::from_gguf(GgufVocabulary { add_space_prefix, bos: Some(260), ..vocab }).unwrap()
    }

    static LLAMA: LazyLock<Tokenizer> = LazyLock::new(|| pieces(None));
    static GEMMA: LazyLock<Tokenizer> = LazyLock::new(|| pieces(Some(false)));

    fn stream(mut detokenizer: Detokenizer, ids: &[u32]) -> Vec<String> {
        let mut pieces: Vec<_> = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
        pieces.push(detokenizer.finish());
        pieces
    }

    #[test]
    fn bytes_that_cannot_become_a_character_are_not_held() {
        let tokenizer = &*LLAMA;
        let byte = |b: u32| b + 1;
        let emoji = [0xF0, 0x9F, 0x9A, 0x80].map(byte);
        assert_eq!(stream(tokenizer.detokenizer(), &emoji), ["", "", "", "🚀", ""]);
        assert_eq!(stream(tokenizer.detokenizer(), &[byte(0xF0), byte(0x9F), 258]), ["", "", "\u{FFFD}a", ""]);
        assert_eq!(stream(tokenizer.detokenizer(), &[byte(0xFF), byte(0xC3)]), ["\u{FFFD}", "", "\u{FFFD}"]);
    }

    #[test]
    fn the_prefix_space_is_not_text() {
        let tokenizer = &*LLAMA;
        let ids = tokenizer.encode("a a  a", true).unwrap();
        assert_eq!(ids, [260, 259, 259, 257, 259]);
        assert_eq!(stream(tokenizer.detokenizer(), &ids).concat(), "a a  a");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a a  a");
        assert_eq!(stream(tokenizer.detokenizer(), &[259, 258])[0], "a");
        // Continuing a text, the space separates words.
        assert_eq!(stream(tokenizer.detokenizer_after(&ids), &[259])[0], " a");
        assert_eq!(stream(tokenizer.detokenizer_after(&[260]), &[259])[0], "a");
        assert_eq!(stream(tokenizer.detokenizer_after(&[]), &[259])[0], "a");
        assert_eq!(tokenizer.encode("", true).unwrap(), [260]);

        assert_eq!(GEMMA.encode("a a", false).unwrap(), [258, 259]);
        assert_eq!(GEMMA.decode(&[259, 258], true).unwrap(), " aa");
    }

    proptest! {
        #[test]
        fn pieces_and_bytes_come_back(text in "[ a]{0,12}|.{0,12}", ids in prop::collection::vec(0u32..261, 0..24)) {
            for tokenizer in [&*LLAMA, &*GEMMA] {
                let encoded = tokenizer.encode(&text, true).unwrap();
                // A literal ▁ is a space to SentencePiece.
                prop_assert_eq!(tokenizer.decode(&encoded, true).unwrap(), text.replace('▁', " "));
                let streamed = stream(tokenizer.detokenizer(), &ids).concat();
                prop_assert_eq!(streamed, tokenizer.decode(&ids, true).unwrap());
            }
        }
    }
}
