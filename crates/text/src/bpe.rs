//! Byte-pair encoding from a vocabulary and a list of merges, whichever file they come from.

use ahash::AHashMap;
use tokenizers::models::bpe::{BPE, Merges};

/// Everything that decides how a byte-pair encoder segments a pre-token.
#[derive(Default)]
pub(crate) struct BpeParts {
    pub vocab: AHashMap<String, u32>,
    /// Pairs in order of priority.
    pub merges: Merges,
    /// A pre-token that is a token itself is emitted at once, without merging.
    pub ignore_merges: bool,
    pub unk_token: Option<String>,
    pub fuse_unk: bool,
    /// Characters without a token become `<0xHH>` tokens.
    pub byte_fallback: bool,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
}

impl BpeParts {
    /// # Errors
    /// A merge that names or makes a token that the vocabulary does not have, or an `unk_token` that it lacks.
    pub(crate) fn build(self) -> Result<BPE, String> {
        let prefix = self.continuing_subword_prefix.as_deref().unwrap_or_default();
        // The builder cuts the prefix off every right half by length alone.
        if !prefix.is_empty()
            && let Some((left, right)) = self.merges.iter().find(|(_, right)| !right.starts_with(prefix))
        {
            return Err(format!("merge \"{left} {right}\": the right half does not begin with {prefix:?}"));
        }
        // The builder puts every product into a buffer that is as long as the longest token.
        let longest = self.vocab.keys().map(String::len).max().unwrap_or_default();
        if let Some((left, right)) = self.merges.iter().find(|(l, r)| l.len() + r.len() - prefix.len() > longest) {
            let product = format!("{left}{}", &right[prefix.len()..]);
            return Err(format!("merge `{left}` `{right}`: there is no token `{product}`"));
        }
        if let Some(unk) = &self.unk_token
            && !self.vocab.contains_key(unk)
        {
            return Err(format!("unk_token {unk:?} is not in the vocabulary"));
        }
        let mut builder = BPE::builder()
            .vocab_and_merges(self.vocab, self.merges)
            .ignore_merges(self.ignore_merges)
            .fuse_unk(self.fuse_unk)
            .byte_fallback(self.byte_fallback);
        if let Some(unk) = self.unk_token {
            builder = builder.unk_token(unk);
        }
        if let Some(prefix) = self.continuing_subword_prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.end_of_word_suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        builder.build().map_err(|e| format!("merges: {e}"))
    }
}
