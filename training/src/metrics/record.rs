//! What is known of one optimizer step.

use serde::{Deserialize, Serialize};

/// What is known once an optimizer step is taken.
///
/// Serde is meant for JSON alone: numbers are stored so that NaN, infinity and every last bit come back.
///
/// Everything but `elapsed_seconds` and `tokens_per_second` is a function of the data, the configuration and the seed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Optimizer steps taken, this one included: the first record has 1. Records come in rising order.
    pub step: u64,
    /// Tokens trained on so far, those of this step included.
    pub tokens: u64,
    /// Mean cross-entropy over the tokens of this step, in nats a token.
    #[serde(with = "any_float")]
    pub train_loss: f64,
    /// That the step was taken with.
    #[serde(with = "any_float")]
    pub learning_rate: f64,
    /// That the step was taken with.
    #[serde(with = "any_float")]
    pub weight_decay: f64,
    /// Share of quantization, 0 to 1.
    #[serde(with = "any_float")]
    pub lambda: f64,
    /// L2 norm of all gradients together, before clipping.
    #[serde(with = "any_float")]
    pub grad_norm: f64,
    /// On held-out data, where it was measured after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<Validation>,
    /// Each quantized linear, where it was looked at after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<LayerQuantization>>,
    /// Text that the model wrote after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<String>,
    /// Seconds of training, those before a resume included.
    #[serde(with = "any_float")]
    pub elapsed_seconds: f64,
    /// Training speed since the record before.
    #[serde(with = "any_float")]
    pub tokens_per_second: f64,
}

/// A measurement on held-out data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Mean cross-entropy, in nats a token.
    #[serde(with = "any_float")]
    pub loss: f64,
    /// The whole cross-entropy in bits by the bytes of the text: comparable between tokenizers.
    #[serde(with = "any_float")]
    pub bits_per_byte: f64,
    /// Tokens that were predicted.
    pub tokens: u64,
    /// Where replies were compared: share of the pairs whose better reply has gained more likelihood than the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

/// What quantization makes of one linear.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerQuantization {
    /// Of the layer, as the checkpoint spells it.
    pub name: String,
    /// Share of the trits that are 0.
    #[serde(with = "any_float")]
    pub zero_fraction: f64,
    /// Share of the trits that are not what they were at the record before that has layers.
    #[serde(with = "any_float")]
    pub flip_rate: f64,
    /// Scale of the weights; the mean where there are several.
    #[serde(with = "any_float")]
    pub gamma: f64,
    /// Share of the latent weights that lie so deep between the rounding thresholds, `|w| < γ/4`, that they will stay 0.
    #[serde(with = "any_float")]
    pub dead_zone: f64,
    /// Largest magnitude among the inputs of the linear, before quantization.
    #[serde(with = "any_float")]
    pub activation_absmax: f64,
}

impl StepRecord {
    /// Mean over the layers of what `of` takes from each; `None` where no layer was looked at.
    pub fn layer_mean(&self, of: impl Fn(&LayerQuantization) -> f64) -> Option<f64> {
        let layers = self.layers.as_deref().filter(|layers| !layers.is_empty())?;
        Some(layers.iter().map(of).sum::<f64>() / layers.len() as f64)
    }
}

/// JSON has no NaN and no infinity, and a run that diverges has both: they are strings. Numbers are read by the standard
/// library, to the last bit; serde_json's own reader may miss that by one.
mod any_float {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use serde_json::value::RawValue;

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() { serializer.serialize_f64(*value) } else { serializer.collect_str(value) }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let value = Box::<RawValue>::deserialize(deserializer)?;
        let text = value.get();
        text.trim_matches('"').parse().map_err(|_| de::Error::custom(format!("`{text}` is no number")))
    }
}
