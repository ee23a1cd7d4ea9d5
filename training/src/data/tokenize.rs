//! Documents as tokens, in parallel.

use bitnet_text::{Message, TextError, Tokenizer};
use rayon::prelude::*;

use super::{
    DataError, Place,
    chat::{self, Masked},
    document::{Content, Document},
};

/// Spellings of tokens that end a text, not only a turn of a conversation.
const ENDS: [&str; 5] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<｜end▁of▁sentence｜>"];

/// Work for one thread at a time, in bytes of text. A tokenizer takes some 50 bytes of memory for each of them.
const PIECE: usize = 64 << 10;
/// Work for all threads, after which progress is told.
const GROUP: usize = 4 << 20;
/// How far beyond [`PIECE`] a place to cut is looked for, and how many are tried.
const SEARCH: usize = 8 << 10;
const TRIES: usize = 8;
/// How much text on either side of a cut must be tokenized alike with and without it.
const AROUND: usize = 512;

/// A tokenizer for training documents.
pub(crate) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// What the tokenizer puts before every text, such as a BOS.
    before: Vec<u32>,
    /// What it puts after, then the end of the text.
    after: Vec<u32>,
}

/// What one thread does at a time.
enum Job<'d> {
    Piece(&'d str),
    Chat(&'d [Message]),
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer) -> Result<Self, TextError> {
        let (bare, framed) = (tokenizer.encode_plain("a", false)?, tokenizer.encode_plain("a", true)?);
        let at = framed.windows(bare.len().max(1)).position(|window| window == bare);
        let (before, mut after) = match at {
            Some(at) => (framed[..at].to_vec(), framed[at + bare.len()..].to_vec()),
            None => (Vec::new(), Vec::new()),
        };
        let end = end_of_text(tokenizer);
        after.extend(end.filter(|end| !after.contains(end)));
        Ok(Self { tokenizer, before, after })
    }

    /// Tokenizes documents, each by itself, and tells how many bytes of them are done.
    ///
    /// A text gets the tokens that its tokenizer puts around every text, and the end-of-text token. The spelling of a
    /// special token inside a text is ordinary text: a document cannot end another one. A conversation is what its
    /// template makes of it.
    ///
    /// # Errors
    /// Names the document.
    pub(crate) fn encode(
        &self,
        documents: &[Document],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Masked>, DataError> {
        let mut jobs = Vec::new();
        for (i, document) in documents.iter().enumerate() {
            match &document.content {
                Content::Text(text) | Content::Part(text) => {
                    let pieces = self.pieces(text).map_err(DataError::text(&document.place))?;
                    jobs.extend(pieces.into_iter().map(|piece| (i, Job::Piece(piece))));
                }
                Content::Chat(messages) => jobs.push((i, Job::Chat(messages))),
            }
        }
        let mut done = vec![Masked::default(); documents.len()];
        for (document, masked) in documents.iter().zip(&mut done) {
            if !matches!(document.content, Content::Chat(_)) {
                masked.tokens.extend(&self.before);
            }
        }
        let mut bytes = 0;
        let mut jobs = jobs.as_slice();
        while !jobs.is_empty() {
            let group = jobs.split_at(group_len(jobs));
            jobs = group.1;
            let results: Vec<_> = group.0.par_iter().map(|(i, job)| self.run(job, &documents[*i].place)).collect();
            for ((i, job), result) in group.0.iter().zip(results) {
                let part = result?;
                done[*i].tokens.extend(part.tokens);
                done[*i].loss.extend(part.loss);
                done[*i].bytes += part.bytes;
                bytes += job.len();
            }
            progress(bytes);
        }
        for (document, masked) in documents.iter().zip(&mut done) {
            if matches!(document.content, Content::Text(_)) {
                masked.tokens.extend(&self.after);
            }
            // Conversations have a mask of their own.
            masked.loss.resize(masked.tokens.len(), true);
            if let Some(first) = masked.loss.first_mut() {
                *first = false;
            }
        }
        Ok(done)
    }

    /// A text as tokens, on one thread; a `whole` one ends with the end-of-text token.
    pub(crate) fn text(&self, text: &str, whole: bool) -> Result<Vec<u32>, TextError> {
        let after = if whole { self.after.as_slice() } else { &[] };
        Ok([&self.before, self.tokenizer.encode_plain(text, false)?.as_slice(), after].concat())
    }

    fn run(&self, job: &Job<'_>, place: &Place) -> Result<Masked, DataError> {
        match job {
            Job::Piece(text) => {
                let tokens = self.tokenizer.encode_plain(text, false).map_err(DataError::text(place))?;
                Ok(Masked { tokens, loss: Vec::new(), bytes: text.len() as u64 })
            }
            Job::Chat(messages) => chat::encode(self.tokenizer, messages, 0, place),
        }
    }

    /// Cuts a long text where the tokenizer itself shows that it makes no difference; a tokenizer for which every cut
    /// does (one that writes a space before every text) gets the text whole.
    fn pieces<'t>(&self, text: &'t str) -> Result<Vec<&'t str>, TextError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while rest.len() > 2 * PIECE {
            let Some(cut) = self.cut(rest)? else { break };
            let (piece, after) = rest.split_at(cut);
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        Ok(pieces)
    }

    fn cut(&self, text: &str) -> Result<Option<usize>, TextError> {
        let candidates = (PIECE..PIECE + SEARCH).filter(|&at| is_between_words(text.as_bytes(), at));
        for at in candidates.take(TRIES) {
            let left = &text[text.floor_char_boundary(at - AROUND)..at];
            let right = &text[at..text.floor_char_boundary(at + AROUND)];
            let whole = self.tokenizer.encode_plain(&[left, right].concat(), false)?;
            let mut halves = self.tokenizer.encode_plain(left, false)?;
            halves.extend(self.tokenizer.encode_plain(right, false)?);
            if whole == halves {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}

impl Job<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Piece(text) => text.len(),
            Self::Chat(messages) => messages.iter().map(|m| m.content.len()).sum(),
        }
    }
}

/// How many jobs make a group.
fn group_len(jobs: &[(usize, Job<'_>)]) -> usize {
    let mut bytes = 0;
    let full = jobs.iter().position(|(_, job)| {
        bytes += job.len();
        bytes >= GROUP
    });
    full.map_or(jobs.len(), |last| last + 1)
}

/// Whether a text may be cut before byte `at`: after a line break, or before a single space, with words on both sides.
/// All that is looked at is ASCII, so `at` is where a character begins.
fn is_between_words(text: &[u8], at: usize) -> bool {
    let byte = |i: usize| text.get(i).copied().unwrap_or(b' ');
    let is_word = |byte: u8| byte.is_ascii_alphanumeric();
    let after_break = byte(at - 1) == b'\n' && !byte(at - 2).is_ascii_whitespace() && is_word(byte(at));
    after_break || (byte(at) == b' ' && is_word(byte(at - 1)) && is_word(byte(at + 1)))
}

/// The token that ends a text: of those that end a reply, the first whose spelling says so, else the first.
fn end_of_text(tokenizer: &Tokenizer) -> Option<u32> {
    let stops = tokenizer.stop_tokens();
    let spelled = stops.iter().find(|&&id| tokenizer.token(id).is_some_and(|token| ENDS.contains(&token.as_str())));
    spelled.or(stops.first()).copied()
}

#[cfg(test)]
mod tests {
    use bitnet_text::{GgufVocabulary, NewTokenizer};

    use super::*;

    fn document(text: &str) -> Document {
        Document { content: Content::Text(text.into()), place: Place::file("a.txt".as_ref()) }
    }

    #[test]
    fn long_texts_are_cut_without_a_trace() {
        let prose = std::fs::read_to_string(bitnet_fixtures::moby("heldout.txt")).unwrap();
        let text = prose.repeat((6 * PIECE).div_ceil(prose.len()));
        let tokenizer = NewTokenizer::train(prose.lines(), 500, false, &mut |_| {}).unwrap().tokenizer().unwrap();
        let encoder = Encoder::new(&tokenizer).unwrap();
        let pieces = encoder.pieces(&text).unwrap();
        assert!(pieces.len() > 3, "{}", pieces.len());
        assert_eq!(pieces.concat(), text);
        let mut told = Vec::new();
        let done = encoder.encode(&[document(&text)], &mut |bytes| told.push(bytes)).unwrap();
        let mut whole = tokenizer.encode_plain(&text, false).unwrap();
        whole.extend(tokenizer.id("<|endoftext|>"));
        assert!(done[0].tokens == whole);
        assert_eq!((done[0].bytes, told), (text.len() as u64, vec![text.len()]));
    }

    #[test]
    fn a_space_before_every_text_forbids_cuts() {
        let tokens = ["<unk>", "▁", "a", "▁a", "\n"].map(String::from).to_vec();
        let scores = vec![0.0, -3.0, -2.0, -1.0, -4.0];
        let vocabulary = GgufVocabulary { model: "llama".into(), tokens, scores, ..GgufVocabulary::default() };
        let tokenizer = Tokenizer::from_gguf(vocabulary).unwrap();
        let text = "a a\n".repeat(PIECE);
        assert_eq!(Encoder::new(&tokenizer).unwrap().pieces(&text).unwrap().len(), 1);
    }
}
