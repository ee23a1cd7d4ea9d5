//! One text and its cache.

use std::fmt;
use std::str::FromStr;

use bitnet_model::{CacheFormat, KvCache, Next, RowStorage, TopLogits, Wanted, row_storage};
use burn::tensor::Tensor;

use crate::{EngineError, Generation, GenerationConfig, LanguageModel};

/// Tokens that the model takes at once: so many that reading the weights costs little beside multiplying them, so few that
/// what the layers hand on stays in the caches.
const PREFILL_CHUNK: usize = 288;

/// Chunks of a long text are equal, in multiples of this: whole blocks of every kernel.
const PREFILL_STEP: usize = 24;

/// What the model says of the last token.
pub(crate) enum State {
    /// Its hidden state, `[1, hidden]`: the native kernels may not need all of the head for a choice.
    Hidden(Box<Tensor<2>>),
    /// The logits after it, on a device.
    Next(Box<Next>),
}

/// What a session may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// The most tokens it may have (the model's own context when `None`).
    pub context: Option<usize>,
    /// How its cache stores keys and values.
    pub cache: CacheFormat,
    /// How much of the head it reads for a token.
    pub head: HeadReading,
}

/// How much of the head is read to choose a token. The tokens are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadReading {
    /// [`HeadReading::Exact`] where the head is large, and its compressed copy is there or more than one token is written.
    #[default]
    Auto,
    /// A compressed copy, and those rows that can be among the largest; all of it where that does not settle the choice.
    Exact,
    /// All of it.
    Full,
}

impl HeadReading {
    const ALL: [Self; 3] = [Self::Auto, Self::Exact, Self::Full];
}

impl fmt::Display for HeadReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeadReading::Auto => "auto",
            HeadReading::Exact => "exact",
            HeadReading::Full => "full",
        })
    }
}

impl FromStr for HeadReading {
    type Err = UnknownHeadReading;

    fn from_str(name: &str) -> Result<Self, UnknownHeadReading> {
        let found = Self::ALL.into_iter().find(|reading| reading.to_string() == name);
        found.ok_or_else(|| UnknownHeadReading(name.to_string()))
    }
}

/// A head is not read in this way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of auto, exact and full")]
pub struct UnknownHeadReading(String);

impl From<Option<usize>> for SessionOptions {
    fn from(context: Option<usize>) -> Self {
        Self { context, ..Self::default() }
    }
}

/// One text: the tokens that the model has seen, and their KV cache.
///
/// A clone is a fork of the text; both go on by themselves.
#[derive(Clone)]
pub struct Session<'m> {
    model: &'m LanguageModel,
    cache: KvCache,
    head: HeadReading,
    tokens: Vec<u32>,
}

impl<'m> Session<'m> {
    pub(crate) fn new(model: &'m LanguageModel, options: SessionOptions) -> Self {
        let limit = options.context.unwrap_or(usize::MAX);
        let cache = model.transformer().cache(limit, options.cache);
        Self { model, cache, head: options.head, tokens: Vec::new() }
    }

    /// The model it runs on.
    pub fn model(&self) -> &'m LanguageModel {
        self.model
    }

    /// The tokens that the model has seen.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The most tokens it may have.
    pub fn context(&self) -> usize {
        self.cache.limit()
    }

    /// Bytes of its cache.
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Forgets all tokens from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.cache.truncate(len);
    }

    /// Continues `prompt`, which is the whole text and not an addition: what the session has seen of it already is not
    /// computed again, and anything else that it has seen is forgotten.
    ///
    /// # Errors
    /// When the prompt is empty or does not fit the context, or a setting is out of its range.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        config: &GenerationConfig,
    ) -> Result<Generation<'m, &mut Self>, EngineError> {
        Generation::new(self, prompt, config)
    }

    /// [`Session::generate`] for a session that is not needed afterwards.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub fn into_generation(
        self,
        prompt: &[u32],
        config: &GenerationConfig,
    ) -> Result<Generation<'m, Self>, EngineError> {
        Generation::new(self, prompt, config)
    }

    /// Makes `text` the session's text; gives how many tokens had to be computed, and what the model says of the last one, with
    /// the `best` logits if any are wanted.
    pub(crate) fn advance_to(&mut self, text: &[u32], best: usize) -> Result<(usize, State), EngineError> {
        let seen = self.tokens.iter().zip(text).take_while(|(a, b)| a == b).count();
        // The last token is run again even if it was seen: its hidden state was not kept.
        self.truncate(seen.min(text.len().saturating_sub(1)));
        let computed = text.len() - self.tokens.len();
        let transformer = self.model.transformer();
        let native = row_storage(transformer.device()) == RowStorage::Bytes;
        if let ([token], false, false) = (&text[self.tokens.len()..], native, self.tokens.is_empty()) {
            let next = transformer.next(&[(0, *token)], &mut self.cache, best)?;
            self.tokens.push(*token);
            return Ok((computed, State::Next(Box::new(next))));
        }
        let mut last = None;
        for chunk in text[self.tokens.len()..].chunks(chunk_size(computed)) {
            last = Some(self.run(chunk)?);
        }
        let hidden = last.ok_or(EngineError::EmptyPrompt)?;
        let rows = hidden.dims()[0];
        let hidden = hidden.slice_dim(0, rows - 1..rows);
        Ok((
            computed,
            if native {
                State::Hidden(Box::new(hidden))
            } else {
                State::Next(Box::new(Next::of(transformer.logits(hidden), best)))
            },
        ))
    }

    /// Whether the session reads a part of the head where that is enough. A `first` token does not wait for the head's copy.
    pub(crate) fn searches_head(&self, first: bool) -> bool {
        let head = self.model.transformer().head();
        match self.head {
            HeadReading::Auto => head.is_worth_searching() && (!first || head.is_ready_to_search()),
            HeadReading::Exact => true,
            HeadReading::Full => false,
        }
    }

    /// The logits that are wanted of one hidden state, where they can be told apart from the others.
    pub(crate) fn top_logits(&self, hidden: &Tensor<2>, wanted: &Wanted) -> Option<TopLogits> {
        self.model.transformer().top_logits(hidden.clone(), wanted)
    }

    /// Runs more tokens and gives their hidden states, `[tokens, hidden]`.
    pub(crate) fn run(&mut self, tokens: &[u32]) -> Result<Tensor<2>, EngineError> {
        let hidden = self.model.transformer().hidden(tokens, &mut self.cache)?;
        self.tokens.extend_from_slice(tokens);
        Ok(hidden)
    }

    /// Logits of one or more hidden states, row after row.
    pub(crate) fn logits(&self, hidden: Tensor<2>) -> Result<Vec<f32>, EngineError> {
        let logits = self.model.transformer().logits(hidden).into_data();
        Ok(logits.try_into_vec().expect("logits are F32"))
    }
}

/// The size of chunks for `tokens` tokens.
pub(crate) fn chunk_size(tokens: usize) -> usize {
    let chunks = tokens.div_ceil(PREFILL_CHUNK).max(1);
    tokens.div_ceil(chunks).next_multiple_of(PREFILL_STEP).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_nearly_equal_and_not_too_large() {
        for tokens in 0..5000 {
            let size = chunk_size(tokens);
            assert!((1..=PREFILL_CHUNK).contains(&size));
            assert_eq!(tokens.div_ceil(size), tokens.div_ceil(PREFILL_CHUNK));
        }
    }
}
