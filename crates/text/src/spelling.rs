//! The bytes that each token stands for.

use crate::TextError;

/// Ids must stay below this: 16 times the largest public vocabulary, so that a table over all ids stays small.
pub(crate) const MAX_VOCAB: u32 = 1 << 22;

/// How a vocabulary writes bytes as token text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alphabet {
    /// GPT-2's: one printable character a byte.
    ByteLevel,
    /// SentencePiece's: `▁` for a space, `<0xHH>` for a byte that no piece covers.
    SentencePiece {
        /// Whether the encoder puts a space before the text, which decoding takes away again.
        prefix_space: bool,
    },
}

/// For every id the bytes of its token.
#[derive(Debug)]
pub(crate) struct Spelling {
    bytes: Vec<u8>,
    /// Range of each id's bytes; `HOLE` for ids that no token has.
    spans: Vec<(u32, u32)>,
    prefix_space: bool,
}

const HOLE: (u32, u32) = (u32::MAX, u32::MAX);

impl Spelling {
    /// Lays out the tokens; `literal` ones (added tokens of a byte-level vocabulary) are spelled as they are written.
    ///
    /// # Errors
    /// An id from [`MAX_VOCAB`] on, or one id for two tokens.
    pub(crate) fn new<'a>(
        alphabet: Alphabet,
        tokens: impl Iterator<Item = (u32, &'a str, bool)>,
    ) -> Result<Self, String> {
        let mut bytes = Vec::new();
        let mut spans = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        for (id, token, literal) in tokens {
            if id >= MAX_VOCAB {
                return Err(format!("token {token:?} has id {id}; ids from {MAX_VOCAB} on are refused"));
            }
            let start = bytes.len();
            match alphabet {
                Alphabet::ByteLevel if literal => bytes.extend_from_slice(token.as_bytes()),
                Alphabet::ByteLevel => push_byte_level(token, &mut bytes),
                Alphabet::SentencePiece { .. } => push_piece(token, &mut bytes),
            }
            let span = u32::try_from(start).ok().zip(u32::try_from(bytes.len()).ok());
            let span = span.ok_or("the vocabulary's text is larger than 4 GiB")?;
            let index = id as usize;
            if index >= spans.len() {
                spans.resize(index + 1, HOLE);
                names.resize(index + 1, "");
            }
            let first = std::mem::replace(&mut names[index], token);
            if !first.is_empty() && first != token {
                return Err(format!("id {id} is given to two tokens, {first:?} and {token:?}"));
            }
            spans[index] = span;
        }
        bytes.shrink_to_fit();
        spans.shrink_to_fit();
        Ok(Self { bytes, spans, prefix_space: matches!(alphabet, Alphabet::SentencePiece { prefix_space: true }) })
    }

    /// Highest id plus one.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// The bytes of a token.
    pub(crate) fn bytes(&self, id: u32) -> Result<&[u8], TextError> {
        match self.spans.get(id as usize) {
            Some(&(start, end)) if (start, end) != HOLE => Ok(&self.bytes[start as usize..end as usize]),
            _ => Err(TextError::UnknownId { id, vocab_size: self.spans.len() }),
        }
    }

    /// Whether one leading space of a decoded text is the encoder's own.
    pub(crate) fn strips_prefix_space(&self) -> bool {
        self.prefix_space
    }
}

/// The byte that a character of GPT-2's alphabet stands for.
///
/// Printable Latin-1 characters stand for themselves; the other 68 bytes, in order, are U+0100 and up.
pub(crate) fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    let printable = |b: u32| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    match code {
        0..=0xFF => printable(code).then_some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

fn push_byte_level(token: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for c in token.chars() {
        match byte_of(c) {
            Some(b) => bytes.push(b),
            None => {
                // Not in the alphabet: a token written as plain text.
                bytes.truncate(start);
                bytes.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

fn push_piece(token: &str, bytes: &mut Vec<u8>) {
    match byte_token(token) {
        Some(b) => bytes.push(b),
        None => bytes.extend_from_slice(token.replace('▁', " ").as_bytes()),
    }
}

/// The byte of a `<0xHH>` token.
pub(crate) fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_a_bijection() {
        let letters = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let bytes: std::collections::HashSet<u8> = letters.iter().filter_map(|&c| byte_of(c)).collect();
        assert_eq!((letters.len(), bytes.len()), (256, 256));
        assert_eq!(
            (byte_of('Ġ'), byte_of('Ċ'), byte_of('ł'), byte_of('\u{143}')),
            (Some(b' '), Some(b'\n'), Some(0xA0), Some(0xAD))
        );
        assert_eq!(byte_of('\u{144}'), None);
        assert_eq!(byte_of(' '), None);
    }

    #[test]
    fn byte_tokens() {
        assert_eq!(byte_token("<0x0A>"), Some(10));
        assert_eq!(byte_token("<0xff>"), Some(255));
        for other in ["<0x+A>", "<0xA>", "<0x0A", "0x0A", "<0xGG>", "<0x0AB>", ""] {
            assert_eq!(byte_token(other), None, "{other}");
        }
    }

    #[test]
    fn holes_are_unknown_ids() {
        let spelling = Spelling::new(Alphabet::ByteLevel, [(2, "Ġa", false), (4, "é!", true)].into_iter()).unwrap();
        assert_eq!(spelling.len(), 5);
        assert_eq!(spelling.bytes(2).unwrap(), b" a");
        assert_eq!(spelling.bytes(4).unwrap(), "é!".as_bytes());
        for id in [0, 3, 5, u32::MAX] {
            assert_eq!(spelling.bytes(id), Err(TextError::UnknownId { id, vocab_size: 5 }));
        }
        assert!(Spelling::new(Alphabet::ByteLevel, [(u32::MAX, "a", false)].into_iter()).is_err());
    }
}
