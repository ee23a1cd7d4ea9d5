//! A text that is being written: from logits to tokens and pieces of text, whatever computes the logits.

use std::fmt;

use bitnet_model::Next;
use bitnet_model::ops::Top;
use bitnet_text::{Detokenizer, StopStrings, TextError};

use crate::score::log_probability;
use crate::{EngineError, GenerationConfig, LanguageModel, Sampler};

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

/// A prompt and its continuation.
pub(crate) struct Writer {
    sampler: Sampler,
    detokenizer: Detokenizer,
    stop_strings: StopStrings,
    stop_tokens: Vec<u32>,
    /// Prompt and continuation, the newest token among them, which the model has not seen yet.
    text: Vec<u32>,
    prompt_len: usize,
    left: usize,
    /// The most tokens that the model can have seen.
    context: usize,
    finished: bool,
}

impl Writer {
    /// # Errors
    /// When the prompt is empty or longer than `context`, or a setting is out of its range.
    pub fn new(
        model: &LanguageModel,
        prompt: &[u32],
        config: &GenerationConfig,
        context: usize,
    ) -> Result<Self, EngineError> {
        let sampler = Sampler::new(config)?;
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        model.transformer().check_tokens(&config.stop_tokens)?;
        config.logit_bias.iter().try_for_each(|(id, _)| model.transformer().check_tokens(&[*id]))?;
        if prompt.len() > context {
            return Err(EngineError::PromptTooLong { tokens: prompt.len(), limit: context });
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
            context,
            finished: config.max_new_tokens == 0,
        })
    }

    /// Prompt and continuation.
    pub fn text(&self) -> &[u32] {
        &self.text
    }

    /// The tokens that were added.
    pub fn ids(&self) -> &[u32] {
        &self.text[self.prompt_len..]
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.sampler.seed()
    }

    /// Whether nothing more is to be written.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether it takes the best token every time, so that no other logit is needed.
    fn is_greedy(&self) -> bool {
        self.sampler.is_greedy()
    }

    /// Adds the best token.
    ///
    /// # Errors
    /// When there is none.
    fn write_best(&mut self, top: &Top) -> Result<Step, EngineError> {
        let position = self.text.len() - 1;
        let (id, logit) = *top.best.first().ok_or(EngineError::BadLogits { position })?;
        self.add(id, self.sampler.wants_logprobs().then_some(logit - top.log_sum_exp))
    }

    /// The sampler, and the text that it continues.
    pub fn sampler(&mut self) -> (&mut Sampler, &[u32]) {
        (&mut self.sampler, &self.text)
    }

    /// The token that the sampler chooses among `logits`, those after the last token, and its log-probability if that is
    /// wanted.
    ///
    /// # Errors
    /// When none of them is usable.
    pub fn choose(&mut self, logits: &[f32]) -> Result<(u32, Option<f32>), EngineError> {
        let position = self.text.len() - 1;
        let id = self.sampler.sample(logits, &self.text).ok_or(EngineError::BadLogits { position })?;
        Ok((id, self.sampler.wants_logprobs().then(|| log_probability(logits, id))))
    }

    /// Adds a token, of which that may be the log-probability.
    ///
    /// # Errors
    /// When it cannot be made text.
    pub fn add(&mut self, id: u32, logprob: Option<f32>) -> Result<Step, EngineError> {
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
            } else if self.text.len() > self.context {
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

/// How many of the best logits these texts need, 0 where one needs all.
pub(crate) fn best_of(writers: &[&mut Writer]) -> usize {
    usize::from(writers.iter().all(|writer| writer.is_greedy()))
}

/// One token of each text. Where only the best are there, nothing else is read from the device.
pub(crate) fn write(writers: &mut [&mut Writer], next: Next) -> Vec<Result<Step, EngineError>> {
    if let Some(top) = &next.top {
        return writers.iter_mut().zip(Top::read(top)).map(|(writer, top)| writer.write_best(&top)).collect();
    }
    let [_, vocab] = next.logits.dims();
    let logits: Vec<f32> = next.logits.into_data().try_into_vec().expect("logits are F32");
    writers
        .iter_mut()
        .zip(logits.chunks_exact(vocab))
        .map(|(writer, logits)| {
            let (id, logprob) = writer.choose(logits)?;
            writer.add(id, logprob)
        })
        .collect()
}
