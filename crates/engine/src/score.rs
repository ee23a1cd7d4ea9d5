//! How probable a model finds a text.

use bitnet_model::{CacheFormat, Isa, log_sum_exp};

use crate::{EngineError, HeadReading, LanguageModel, SessionOptions};

/// Positions whose logits are in memory at once.
const LOGITS_CHUNK: usize = 64;

/// A text is scored with nothing lost in the cache.
const EXACT: SessionOptions = SessionOptions { context: None, cache: CacheFormat::F32, head: HeadReading::Full };

/// How a long text is cut into windows that the model sees one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens that the model sees at once.
    pub size: usize,
    /// Positions at the beginning of each window that are not scored.
    pub skip: usize,
    /// How windows begin.
    pub start: WindowStart,
}

/// How windows begin, and with that which token each position predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowStart {
    /// With the text's own tokens: `size` positions each predict the token after them, the last one the first token of
    /// the next window. A last window that is short is dropped.
    Text,
    /// With this beginning-of-text token in the place of the window's first token, as llama.cpp's perplexity tool does:
    /// positions up to `size - 2` predict the tokens of the same window.
    Bos(u32),
}

/// What a text costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Tokens that were predicted.
    pub tokens: usize,
    /// Sum of their negative log-probabilities, in nats.
    pub nll: f64,
}

impl Score {
    /// Nats a token.
    pub fn loss(&self) -> f64 {
        self.nll / self.tokens as f64
    }

    /// `exp(loss)`.
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }
}

/// Scores a text; `progress` hears of tokens done and tokens in all.
///
/// # Errors
/// When the text does not fill one window, the window does not fit the model's context, or a token has no row.
pub fn score(
    model: &LanguageModel,
    text: &[u32],
    windows: Windows,
    mut progress: impl FnMut(usize, usize),
) -> Result<Score, EngineError> {
    let Windows { size, skip, start } = windows;
    let predicted = match start {
        WindowStart::Text => size,
        WindowStart::Bos(_) => size.saturating_sub(1),
    };
    if skip >= predicted {
        let value = skip.to_string();
        return Err(EngineError::Setting { name: "skip", value, expected: "below the positions of a window" });
    }
    let needed = if start == WindowStart::Text { size.saturating_add(1) } else { size };
    if text.len() < needed {
        return Err(EngineError::TextTooShort { tokens: text.len(), needed });
    }
    model.transformer().check_tokens(text)?;
    let count = (text.len() - (needed - size)) / size;
    let mut total = Score { tokens: 0, nll: 0.0 };
    let mut session = model.session(EXACT);
    for first in (0..count).map(|i| i * size) {
        let mut window = text[first..first + size].to_vec();
        if let WindowStart::Bos(bos) = start {
            window[0] = bos;
        }
        let targets = &text[first + 1..first + 1 + predicted];
        session.truncate(0);
        let hidden = session.run(&window)?;
        for from in (skip..predicted).step_by(LOGITS_CHUNK) {
            let to = predicted.min(from + LOGITS_CHUNK);
            let logits = session.logits(hidden.clone().slice_dim(0, from..to))?;
            let vocab = logits.len() / (to - from);
            for (i, logits) in logits.chunks_exact(vocab).enumerate() {
                let logprob = f64::from(log_probability(logits, targets[from + i]));
                if !logprob.is_finite() {
                    return Err(EngineError::BadLogits { position: first + from + i });
                }
                total.nll -= logprob;
            }
            total.tokens += to - from;
        }
        progress(first + size, count * size);
    }
    Ok(total)
}

/// Log-probabilities of the tokens of `text` after the first, each given all before it.
///
/// # Errors
/// When the text is empty or does not fit the model's context, or a token has no row.
pub fn log_probabilities(model: &LanguageModel, text: &[u32]) -> Result<Vec<f32>, EngineError> {
    if text.is_empty() {
        return Err(EngineError::EmptyPrompt);
    }
    let mut session = model.session(EXACT);
    let hidden = session.run(text)?;
    let mut all = Vec::with_capacity(text.len() - 1);
    for from in (0..text.len() - 1).step_by(LOGITS_CHUNK) {
        let to = (text.len() - 1).min(from + LOGITS_CHUNK);
        let logits = session.logits(hidden.clone().slice_dim(0, from..to))?;
        let vocab = logits.len() / (to - from);
        let rows = logits.chunks_exact(vocab).zip(&text[from + 1..]);
        all.extend(rows.map(|(logits, target)| log_probability(logits, *target)));
    }
    Ok(all)
}

/// `log softmax(logits)[id]`.
pub(crate) fn log_probability(logits: &[f32], id: u32) -> f32 {
    (f64::from(logits[id as usize]) - log_sum_exp(Isa::active(), logits)) as f32
}
