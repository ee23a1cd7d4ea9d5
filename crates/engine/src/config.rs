//! How to continue a text.

use crate::EngineError;

/// Settings of one generation. The sampling settings apply in the order in which they stand here.
///
/// ```
/// use bitnet_engine::GenerationConfig;
///
/// let greedy = GenerationConfig { temperature: 0.0, max_new_tokens: 32, ..Default::default() };
/// assert!(greedy.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationConfig {
    /// The most tokens to add.
    pub max_new_tokens: usize,
    /// Strings that end the text and are not part of it.
    pub stop_strings: Vec<String>,
    /// Tokens that end the text, besides the tokenizer's own end-of-text and end-of-turn tokens.
    pub stop_tokens: Vec<u32>,
    /// Go on after the tokenizer's own stop tokens.
    pub ignore_eos: bool,
    /// Divides the logit of a token that was there before if it is positive, multiplies it if negative; 1 is off.
    /// Keskar et al., "CTRL" (arXiv 1909.05858), section 4.1.
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit for each time that it was there before; 0 is off.
    pub frequency_penalty: f32,
    /// Subtracted from a token's logit if it was there before; 0 is off.
    pub presence_penalty: f32,
    /// How many of the last tokens, the prompt's among them, the three penalties look at.
    pub penalty_window: usize,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Divides the logits; 0 takes the most probable token every time.
    pub temperature: f32,
    /// Keeps the `k` most probable tokens; 0 is off.
    pub top_k: usize,
    /// Keeps the most probable tokens that together have at least this probability; 1 is off.
    /// Holtzman et al., "The Curious Case of Neural Text Degeneration" (arXiv 1904.09751).
    pub top_p: f32,
    /// Keeps tokens at least this fraction as probable as the most probable one; 0 is off.
    /// Nguyen et al., "Turning Up the Heat: Min-p Sampling" (arXiv 2407.01082).
    pub min_p: f32,
    /// Keeps tokens whose surprise is closest to the entropy until they have this probability; 1 is off.
    /// Meister et al., "Locally Typical Sampling" (arXiv 2202.00666).
    pub typical_p: f32,
    /// Same seed, same text. Without one, a seed is drawn from the system.
    pub seed: Option<u64>,
    /// Say how probable each token was, see [`crate::Step::logprob`]. The whole head is read for that.
    pub logprobs: bool,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            stop_strings: Vec::new(),
            stop_tokens: Vec::new(),
            ignore_eos: false,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_window: 64,
            logit_bias: Vec::new(),
            temperature: 0.7,
            top_k: 0,
            top_p: 0.95,
            min_p: 0.0,
            typical_p: 1.0,
            seed: None,
            logprobs: false,
        }
    }
}

impl GenerationConfig {
    /// Whether tokens that were there before become more or less probable.
    pub(crate) fn penalizes(&self) -> bool {
        self.repetition_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }

    /// Whether the order of the logits can change before a token is chosen.
    pub(crate) fn changes_logits(&self) -> bool {
        self.penalizes() || !self.logit_bias.is_empty()
    }

    /// Checks that every setting is in its range.
    ///
    /// # Errors
    /// When one is not; the error names it.
    pub fn check(&self) -> Result<(), EngineError> {
        let float = |name, value: f32, ok: bool, expected| {
            if ok { Ok(()) } else { Err(EngineError::Setting { name, value: value.to_string(), expected }) }
        };
        let penalty = "a finite number";
        let fraction = "between 0 and 1";
        let positive = self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite();
        float("temperature", self.temperature, self.temperature >= 0.0 && self.temperature.is_finite(), "0 or more")?;
        float("repetition_penalty", self.repetition_penalty, positive, "more than 0")?;
        float("frequency_penalty", self.frequency_penalty, self.frequency_penalty.is_finite(), penalty)?;
        float("presence_penalty", self.presence_penalty, self.presence_penalty.is_finite(), penalty)?;
        float("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1")?;
        float("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), fraction)?;
        float("typical_p", self.typical_p, self.typical_p > 0.0 && self.typical_p <= 1.0, "above 0 and at most 1")?;
        match self.logit_bias.iter().find(|(_, bias)| bias.is_nan()) {
            Some((_, bias)) => float("logit_bias", *bias, false, "a number"),
            None => Ok(()),
        }
    }
}
