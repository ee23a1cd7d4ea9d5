//! Generation, one token at a time.

use std::borrow::BorrowMut;
use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use bitnet_text::{Detokenizer, StopStrings, TextError};

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
    /// Natural logarithm of the token's probability under the model's own distribution, before any sampling setting.
    pub logprob: f32,
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
    timing: Timing,
}

/// How long a generation took, and for how many tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Tokens of the prompt that were computed (not those that the session had seen).
    pub prefill_tokens: usize,
    /// Time until the first logits.
    pub prefill: Duration,
    /// Tokens computed after the first.
    pub decode_tokens: usize,
    /// Time that they took.
    pub decode: Duration,
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

    fn step(&mut self) -> Result<Step, EngineError> {
        let before = Instant::now();
        let session = self.session.borrow_mut();
        let (computed, logits) = session.advance_to(&self.text)?;
        let context = session.context();
        if self.text.len() == self.prompt_len {
            self.timing = Timing { prefill_tokens: computed, prefill: before.elapsed(), ..self.timing };
        } else {
            self.timing.decode_tokens += 1;
            self.timing.decode += before.elapsed();
        }

        let position = self.text.len() - 1;
        let id = self.sampler.sample(&logits, &self.text).ok_or(EngineError::BadLogits { position })?;
        let logprob = log_probability(&logits, id);
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
