//! How to choose tokens.

use bitnet::GenerationConfig;
use clap::Args;

#[derive(Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// 0 takes the most probable token every time
    #[arg(long, default_value_t = 0.7, allow_negative_numbers = true)]
    temperature: f32,

    /// Keep the K most probable tokens; 0 is off
    #[arg(long, default_value_t = 0)]
    top_k: usize,

    /// Keep the most probable tokens that together have this probability
    #[arg(long, default_value_t = 0.95, allow_negative_numbers = true)]
    top_p: f32,

    /// Keep tokens at least this fraction as probable as the best one
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f32,

    /// Keep tokens of typical surprise until they have this probability
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    typical_p: f32,

    /// Make tokens that were there before less probable; 1 is off
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f32,

    /// Subtract this for each time that a token was there before
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,

    /// Subtract this if a token was there before
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,

    /// How many of the last tokens the penalties look at
    #[arg(long, default_value_t = 64)]
    penalty_window: usize,

    /// Add BIAS to the logit of a token; can be given again
    #[arg(long, value_name = "ID=BIAS", value_parser = bias, allow_hyphen_values = true)]
    logit_bias: Vec<(u32, f32)>,

    /// Same seed, same text
    #[arg(long)]
    seed: Option<u64>,

    /// End the text before this string; can be given again
    #[arg(long, value_name = "STRING")]
    stop: Vec<String>,

    /// End the text at this token; can be given again
    #[arg(long, value_name = "ID")]
    stop_token: Vec<u32>,

    /// Go on after the model's own end-of-text tokens
    #[arg(long)]
    ignore_eos: bool,
}

impl SamplingArgs {
    /// These settings, for at most `max_new_tokens`.
    pub fn config(&self, max_new_tokens: usize) -> GenerationConfig {
        GenerationConfig {
            max_new_tokens,
            stop_strings: self.stop.clone(),
            stop_tokens: self.stop_token.clone(),
            ignore_eos: self.ignore_eos,
            repetition_penalty: self.repetition_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            penalty_window: self.penalty_window,
            logit_bias: self.logit_bias.clone(),
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            seed: self.seed,
            logprobs: false,
        }
    }
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let (id, bias) = text.split_once('=').ok_or("expected ID=BIAS")?;
    Ok((
        id.parse().map_err(|_| format!("{id} is not a token id"))?,
        bias.parse().map_err(|_| format!("{bias} is not a number"))?,
    ))
}
