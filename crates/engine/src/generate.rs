//! Generation, one token at a time.

use std::borrow::BorrowMut;
use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use bitnet_model::TopLogits;
use bitnet_text::{Detokenizer, StopStrings, TextError};

use burn::tensor::Tensor;

use crate::score::log_probability;
use crate::{EngineError, GenerationConfig, Sampler, Session};

/// Why a text ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model gave a stop token.
    StopToken(u32),
    /// The text came to a stop string.
    StopString(String),
    /// `max_new_tokens` were added.
    Length,
    /// The context is full.
    Context,
}

impl FinishReason {
    /// `stop`, `length` or `context`.
    pub fn as_str(&self) -> &'static str {
        match self {
            FinishReason::StopToken(_) | FinishReason::StopString(_) => "stop",
            FinishReason::Length => "length",
            FinishReason::Context => "context",
        }
    }
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One token more.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The token.
    pub id: u32,
    /// Text that can be shown now: empty while a character is incomplete or a stop string may have begun.
    pub text: String,
    /// Natural logarithm of the token's probability under the model's own distribution, before any sampling setting; where
    /// [`GenerationConfig::logprobs`] asks for it.
    pub logprob: Option<f32>,
    /// Set on the last step.
    pub finish: Option<FinishReason>,
}

/// The continuation of a prompt as an iterator of [`Step`]s. Dropping it stops; the session keeps what it has seen.
///
/// `S` is the session: borrowed (`&mut Session`), or owned by the generation.
pub struct Generation<'m, S: BorrowMut<Session<'m>>> {
    session: S,
    model: PhantomData<&'m ()>,
    sampler: Sampler,
    detokenizer: Detokenizer,
    stop_strings: StopStrings,
    stop_tokens: Vec<u32>,
    /// Prompt and continuation, the newest token among them, which the model has not seen yet.
    text: Vec<u32>,
    prompt_len: usize,
    left: usize,
    finished: bool,
    /// Searches of the head in vain, one after the other, and tokens that are not searched for because of them.
    in_vain: u32,
    pause: u32,
    timing: Timing,
}

/// How long a generation took, and for how many tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Tokens of the prompt that were computed (not those that the session had seen).
    pub prefill_tokens: usize,
    /// Time until the first token was chosen.
    pub prefill: Duration,
    /// Tokens computed after the first.
    pub decode_tokens: usize,
    /// Time that they took.
    pub decode: Duration,
    /// How the head was read for all of them.
    pub head: HeadUse,
}

/// How often the head was read in which way, see [`crate::HeadReading`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadUse {
    /// Tokens that a part of it was read for.
    pub searched: usize,
    /// Tokens that all of it was read for.
    pub full: usize,
    /// Those of them that it had been searched for before, in vain.
    pub undecided: usize,
    /// Bytes that all searches read together.
    pub searched_bytes: u64,
    /// Rows that they read in full.
    pub searched_rows: usize,
}

impl HeadUse {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            searched: self.searched + other.searched,
            full: self.full + other.full,
            undecided: self.undecided + other.undecided,
            searched_bytes: self.searched_bytes + other.searched_bytes,
            searched_rows: self.searched_rows + other.searched_rows,
        }
    }

    /// Bytes for a token, where all of the head has so many.
    pub fn bytes_per_token(&self, full: u64) -> u64 {
        let tokens = (self.searched + self.full).max(1) as u64;
        (self.searched_bytes + self.full as u64 * full) / tokens
    }

    /// How often the head was read in which way, in words, where all of it has so many bytes.
    pub fn describe(&self, full: u64) -> String {
        let rows = self.searched_rows as f64 / self.searched.max(1) as f64;
        format!(
            "searched for {} tokens with {rows:.0} full rows each, read whole for {} (undecided {}), {:.1} MB a token of {:.1}",
            self.searched,
            self.full,
            self.undecided,
            self.bytes_per_token(full) as f64 / 1e6,
            full as f64 / 1e6,
        )
    }

    fn add(&mut self, top: &TopLogits) {
        self.searched += 1;
        self.searched_bytes += top.bytes as u64;
        self.searched_rows += top.logits.len();
    }
}

impl Timing {
    /// Prompt tokens a second.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        per_second(self.prefill_tokens, self.prefill)
    }

    /// New tokens a second, the first one (which prefill gives) not counted.
    pub fn decode_tokens_per_second(&self) -> f64 {
        per_second(self.decode_tokens, self.decode)
    }
}

fn per_second(tokens: usize, time: Duration) -> f64 {
    if tokens == 0 { 0.0 } else { tokens as f64 / time.as_secs_f64().max(1e-9) }
}

impl<'m, S: BorrowMut<Session<'m>>> Generation<'m, S> {
    pub(crate) fn new(session: S, prompt: &[u32], config: &GenerationConfig) -> Result<Self, EngineError> {
        let sampler = Sampler::new(config)?;
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        let model = session.borrow().model();
        model.transformer().check_tokens(&config.stop_tokens)?;
        config.logit_bias.iter().try_for_each(|(id, _)| model.transformer().check_tokens(&[*id]))?;
        let limit = session.borrow().context();
        if prompt.len() > limit {
            return Err(EngineError::PromptTooLong { tokens: prompt.len(), limit });
        }
        let tokenizer = model.tokenizer();
        let mut stop_tokens = config.stop_tokens.clone();
        if !config.ignore_eos {
            stop_tokens.extend_from_slice(tokenizer.stop_tokens());
        }
        Ok(Self {
            sampler,
            detokenizer: tokenizer.detokenizer_after(prompt),
            stop_strings: StopStrings::new(config.stop_strings.clone()),
            stop_tokens,
            text: prompt.to_vec(),
            prompt_len: prompt.len(),
            left: config.max_new_tokens,
            finished: config.max_new_tokens == 0,
            in_vain: 0,
            pause: 0,
            timing: Timing::default(),
            model: PhantomData,
            session,
        })
    }

    /// The tokens that were added so far.
    pub fn ids(&self) -> &[u32] {
        &self.text[self.prompt_len..]
    }

    /// How long it took so far.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.sampler.seed()
    }

    /// The token after a hidden state, and its log-probability if that is wanted.
    fn choose(&mut self, hidden: Tensor<2>) -> Result<(u32, Option<f32>), EngineError> {
        let session = self.session.borrow();
        let vocab_size = session.model().transformer().head().rows();
        let use_of_head = &mut self.timing.head;
        let first = self.text.len() == self.prompt_len;
        let wanted = self.sampler.wanted(vocab_size, &self.text);
        if self.pause > 0 {
            self.pause -= 1;
        } else if let Some(wanted) = wanted.filter(|_| session.searches_head(first)) {
            if let Some(top) = session.top_logits(&hidden, &wanted)
                && let Some(id) = self.sampler.sample_top(&top, &self.text)
            {
                use_of_head.add(&top);
                self.in_vain = 0;
                return Ok((id, None));
            }
            use_of_head.undecided += 1;
            // What did not settle this token will hardly settle the next: one, three, seven and then fifteen are left out.
            self.in_vain = (self.in_vain + 1).min(4);
            self.pause = (1 << self.in_vain) - 1;
        }
        use_of_head.full += 1;
        let logits = session.logits(hidden)?;
        let position = self.text.len() - 1;
        let id = self.sampler.sample(&logits, &self.text).ok_or(EngineError::BadLogits { position })?;
        Ok((id, self.sampler.wants_logprobs().then(|| log_probability(&logits, id))))
    }

    fn step(&mut self) -> Result<Step, EngineError> {
        let before = Instant::now();
        let session = self.session.borrow_mut();
        let (computed, hidden) = session.advance_to(&self.text)?;
        let context = session.context();
        let (id, logprob) = self.choose(hidden)?;
        if self.text.len() == self.prompt_len {
            self.timing = Timing { prefill_tokens: computed, prefill: before.elapsed(), ..self.timing };
        } else {
            self.timing.decode_tokens += 1;
            self.timing.decode += before.elapsed();
        }
        self.text.push(id);
        self.left -= 1;

        let mut finish = None;
        let mut text = String::new();
        if self.stop_tokens.contains(&id) {
            finish = Some(FinishReason::StopToken(id));
        } else {
            let piece = match self.detokenizer.push(id) {
                // A padding row of the embedding: no token, and so no text.
                Err(TextError::UnknownId { .. }) => String::new(),
                piece => piece?,
            };
            let pushed = self.stop_strings.push(&piece);
            text = pushed.text;
            if let Some(stop) = pushed.matched {
                finish = Some(FinishReason::StopString(stop));
            } else if self.left == 0 {
                finish = Some(FinishReason::Length);
            } else if self.text.len() > context {
                finish = Some(FinishReason::Context);
            }
        }
        if let Some(reason) = &finish {
            self.finished = true;
            if !matches!(reason, FinishReason::StopString(_)) {
                let rest = self.stop_strings.push(&self.detokenizer.finish());
                text += &rest.text;
                text += &self.stop_strings.finish();
            }
        }
        Ok(Step { id, text, logprob, finish })
    }
}

impl<'m, S: BorrowMut<Session<'m>>> Iterator for Generation<'m, S> {
    type Item = Result<Step, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let step = self.step();
        self.finished |= step.is_err();
        Some(step)
    }
}
