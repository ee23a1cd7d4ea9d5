//! Everything that decides how a model is trained, as one TOML file.

mod choices;
mod size;

use std::path::PathBuf;

use bitnet_format::{ModelConfig, RopeScaling, ScaleDirection};
use serde::{Deserialize, Serialize};

use crate::schedule::{LambdaSchedule, LearningRate, WeightDecay};
pub use choices::{
    ActivationChoice, OptimizerKind, Packing, PrecisionChoice, Reduction, ScaleChoice, StorageChoice, TokenizerChoice,
    UnknownWord, WeightsChoice,
};
pub use size::Size;

/// A recipe: what is trained, on what, how, and for how long. The same recipe, data and seed give the same model on one
/// machine, whatever its number of threads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Chooses the first weights and the order of the data.
    pub seed: u64,
    /// `bytes`, `bpe:N` (merges learned from the data, a vocabulary of N tokens), `model` (that of `from`), or the path of
    /// a `tokenizer.json`.
    pub tokenizer: TokenizerChoice,
    /// The model file or folder that is trained further, from which the network is then taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// The network.
    pub model: Model,
    /// What its linears compute.
    pub quantization: QuantizationRecipe,
    /// Steps and batches.
    pub batch: BatchRecipe,
    /// How weights change.
    pub optimizer: OptimizerRecipe,
    /// How long it goes on, and what is looked at meanwhile.
    pub run: RunRecipe,
    /// Which of two replies is better is what the data says, and what is learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<PreferenceRecipe>,
    /// Only a low-rank adapter is trained, beside trits that stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraRecipe>,
    /// The model that is trained further is a float one, and also the teacher of what it becomes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<DistillationRecipe>,
}

/// The sizes of the network: a LLaMA decoder as in BitNet b1.58 2B-4T.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the MLP.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Positions: the longest sequence of training, and the model's context.
    pub context: usize,
    /// RMSNorms before `o_proj` and `down_proj`.
    pub sub_norms: bool,
    /// An RMSNorm before each linear's quantizer, besides those of the block.
    #[serde(default)]
    pub inner_norms: bool,
    /// `relu2` or `silu`.
    pub activation: ActivationChoice,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// What embedding and head are stored in. They compute with what it can hold, so nothing is lost when it is written.
    pub embedding: StorageChoice,
    /// Standard deviation of the first weights of the linears, times the root of their inputs.
    pub init: f64,
    /// Standard deviation of the first embedding.
    pub embedding_init: f64,
}

/// What the linears compute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizationRecipe {
    /// `ternary`, or `none` for the float twin.
    pub weights: WeightsChoice,
    /// Weights that share a scale: `tensor`, `row` or `group:N`.
    pub scale: ScaleChoice,
    /// Bits of the activations, 8; or 0 for floats as they come.
    pub act_bits: u8,
    /// How far values are quantized, over the run.
    pub lambda: LambdaSchedule,
}

/// Steps and batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchRecipe {
    /// Rows of `context` targets in a step.
    pub rows: usize,
    /// Parts that a step is computed in, one after the other, to save memory.
    pub accumulate: usize,
    /// Keep only the input of each block for the backward pass, and compute the rest again.
    pub checkpoint_activations: bool,
    /// What the float products of linears take their operands in: `f32`, or `bf16` where the device has such products.
    #[serde(default)]
    pub precision: PrecisionChoice,
    /// What a row is: `rows`, so many targets in a row, or `documents`, each one by itself.
    #[serde(default)]
    pub packing: Packing,
    /// What the losses of the targets become: their `mean`, or their `sum`.
    #[serde(default)]
    pub reduction: Reduction,
}

/// Direct preference optimization against the model that is trained further.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreferenceRecipe {
    /// How strongly the model is held to where it began: the smaller, the less.
    pub beta: f64,
}

/// A low-rank adapter on all linears.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraRecipe {
    /// Width between the two matrices of a linear.
    pub rank: usize,
    /// What their product is multiplied by, times the rank.
    pub alpha: f64,
}

/// What is learned of a float teacher: `likelihood * cross-entropy + logits * T² * divergence at temperature T + relations *
/// divergence of the attention relations of one layer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillationRecipe {
    /// Weight of the cross-entropy of the next token.
    pub likelihood: f64,
    /// Weight of the divergence from the teacher's distribution.
    pub logits: f64,
    /// Temperature of both distributions.
    pub temperature: f64,
    /// Weight of the divergence of the relations among queries, among keys and among values; 0 for none.
    pub relations: f64,
    /// The layer whose relations these are, from 0.
    pub layer: usize,
}

/// How weights change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerRecipe {
    /// `adamw`, or `muon` for the linears' matrices with AdamW for everything else.
    pub kind: OptimizerKind,
    /// Step size of AdamW, and of Muon, whose updates are scaled to the size of AdamW's.
    pub learning_rate: LearningRate,
    /// Decay of the linears' matrices; norms and embeddings have none.
    pub weight_decay: WeightDecay,
    /// Decay of AdamW's mean of gradients.
    pub beta_1: f64,
    /// Decay of AdamW's mean of squares.
    pub beta_2: f64,
    /// What AdamW adds to the root of that.
    pub epsilon: f64,
    /// Muon's momentum.
    pub momentum: f64,
    /// The largest norm of all gradients together; 0 for no limit.
    pub clip: f64,
}

/// How long the run goes on, and what is looked at meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecipe {
    /// Optimizer steps; 0 for no limit but the others.
    pub max_steps: u64,
    /// Times that the data is used up, in place of a number of steps; 0 for no limit but the others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epochs: f64,
    /// Seconds of training; 0 for no limit but the steps. Schedules follow whichever limit is nearer.
    pub max_seconds: f64,
    /// Steps between two measurements on the held-out text.
    pub validate_every: u64,
    /// The most held-out tokens that one of these looks at; the last one looks at all.
    pub validate_tokens: u64,
    /// Steps between two checkpoints.
    pub checkpoint_every: u64,
    /// Latest checkpoints that are kept, besides the best one.
    pub keep: usize,
    /// Steps between two looks at the quantization of each layer.
    pub inspect_every: u64,
    /// Steps between two texts that the model writes; 0 for none.
    pub sample_every: u64,
    /// What those texts begin with.
    pub sample_prompt: String,
}

fn is_zero(x: &f64) -> bool {
    *x == 0.0
}

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// When the text is not a whole recipe; the error says which line.
    pub fn parse(text: &str) -> Result<Self, RecipeError> {
        let recipe: Recipe = toml::from_str(text).map_err(|e| RecipeError::Toml(e.to_string().trim().to_string()))?;
        recipe.check()?;
        Ok(recipe)
    }

    /// The recipe as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe is plain tables of plain values")
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// The first setting that cannot be, by its name in the file.
    pub fn check(&self) -> Result<(), RecipeError> {
        let Model { layers, hidden, ffn, heads, kv_heads, context, .. } = self.model;
        let sizes = [
            ("model.layers", layers),
            ("model.hidden", hidden),
            ("model.ffn", ffn),
            ("model.heads", heads),
            ("model.kv_heads", kv_heads),
            ("model.context", context),
            ("batch.rows", self.batch.rows),
            ("batch.accumulate", self.batch.accumulate),
            ("run.keep", self.run.keep),
        ];
        let refuse = |name: &'static str, reason: String| Err(RecipeError::Setting { name, reason });
        if let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return refuse(name, "must be at least 1".to_string());
        }
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| *size > 1 << 20) {
            return refuse(name, format!("{size} is too large"));
        }
        // The heads of a model that is trained further are what they are.
        if self.from.is_none() && (!hidden.is_multiple_of(heads) || !(hidden / heads).is_multiple_of(2)) {
            return refuse("model.heads", format!("{heads} heads do not share {hidden} evenly in even widths"));
        }
        if !heads.is_multiple_of(kv_heads) {
            return refuse("model.kv_heads", format!("{kv_heads} does not divide the {heads} query heads"));
        }
        if self.from.is_none() && self.tokenizer == TokenizerChoice::Model {
            return refuse("tokenizer", "there is no model to take it from: `from` is not given".to_string());
        }
        if let Some(preference) = &self.preference {
            if self.from.is_none() {
                return refuse("preference", "needs a model to begin with: `from` is not given".to_string());
            }
            if !(preference.beta.is_finite() && preference.beta > 0.0) {
                return refuse("preference.beta", format!("{} is not a positive number", preference.beta));
            }
            if self.batch.checkpoint_activations {
                let name = "batch.checkpoint_activations";
                return refuse(name, "is not for a preference, which needs all of both replies at once".to_string());
            }
        }
        if let Some(lora) = &self.lora {
            if self.from.is_none() {
                return refuse("lora", "needs a model to begin with: `from` is not given".to_string());
            }
            if lora.rank == 0 || lora.rank > 1 << 16 {
                return refuse("lora.rank", format!("{} is not a rank", lora.rank));
            }
            if !lora.alpha.is_finite() {
                return refuse("lora.alpha", format!("{} is not a finite number", lora.alpha));
            }
        }
        if let Some(distillation) = &self.distillation {
            self.check_distillation(distillation)?;
        }
        if self.batch.accumulate > self.batch.rows {
            return refuse("batch.accumulate", format!("there are only {} rows in a step", self.batch.rows));
        }
        if !matches!(self.quantization.act_bits, 0 | 8) {
            return refuse("quantization.act_bits", "is 8, or 0 for floats".to_string());
        }
        if self.run.max_steps == 0 && self.run.epochs == 0.0 && self.run.max_seconds <= 0.0 {
            return refuse("run.max_steps", "there is neither a last step nor a time limit".to_string());
        }
        if self.run.max_steps > 0 && self.run.epochs > 0.0 {
            return refuse("run.epochs", "is another word for `run.max_steps`, which is also given".to_string());
        }
        let numbers = [
            ("model.rope_theta", self.model.rope_theta),
            ("model.init", self.model.init),
            ("model.embedding_init", self.model.embedding_init),
            ("optimizer.epsilon", self.optimizer.epsilon),
        ];
        if let Some((name, x)) = numbers.into_iter().find(|(_, x)| !(x.is_finite() && *x > 0.0)) {
            return refuse(name, format!("{x} is not a positive number"));
        }
        let shares = [
            ("optimizer.beta_1", self.optimizer.beta_1),
            ("optimizer.beta_2", self.optimizer.beta_2),
            ("optimizer.momentum", self.optimizer.momentum),
        ];
        if let Some((name, x)) = shares.into_iter().find(|(_, x)| !(0.0..1.0).contains(x)) {
            return refuse(name, format!("{x} is not at least 0 and below 1"));
        }
        let limits = [
            ("optimizer.clip", self.optimizer.clip),
            ("run.max_seconds", self.run.max_seconds),
            ("run.epochs", self.run.epochs),
        ];
        if let Some((name, x)) = limits.into_iter().find(|(_, x)| !(x.is_finite() && *x >= 0.0)) {
            return refuse(name, format!("{x} is not a number of at least 0"));
        }
        Ok(())
    }

    fn check_distillation(&self, distillation: &DistillationRecipe) -> Result<(), RecipeError> {
        let refuse = |name: &'static str, reason: String| Err(RecipeError::Setting { name, reason });
        if self.from.is_none() {
            return refuse("distillation", "needs a teacher: `from` is not given".to_string());
        }
        if self.preference.is_some() || self.lora.is_some() {
            return refuse("distillation", "goes with neither a preference nor an adapter".to_string());
        }
        if self.batch.checkpoint_activations {
            let reason = "is not for distillation, which looks into a layer".to_string();
            return refuse("batch.checkpoint_activations", reason);
        }
        let weights = [
            ("distillation.likelihood", distillation.likelihood),
            ("distillation.logits", distillation.logits),
            ("distillation.relations", distillation.relations),
        ];
        if let Some((name, x)) = weights.into_iter().find(|(_, x)| !(x.is_finite() && *x >= 0.0)) {
            return refuse(name, format!("{x} is not a number of at least 0"));
        }
        let temperature = distillation.temperature;
        if !(temperature.is_finite() && temperature > 0.0) {
            return refuse("distillation.temperature", format!("{temperature} is not a positive number"));
        }
        if distillation.layer >= self.model.layers {
            let reason = format!("{} is not one of the {} layers, from 0", distillation.layer, self.model.layers);
            return refuse("distillation.layer", reason);
        }
        Ok(())
    }

    /// The hyperparameters of the model with a vocabulary, whose texts end with `end_of_text`.
    pub fn config(&self, vocab_size: usize, end_of_text: Option<u32>) -> ModelConfig {
        let model = &self.model;
        let head_dim = model.hidden / model.heads;
        ModelConfig {
            architecture: "BitNetForCausalLM".to_string(),
            hidden_size: model.hidden,
            intermediate_size: model.ffn,
            num_layers: model.layers,
            num_heads: model.heads,
            num_kv_heads: model.kv_heads,
            head_dim,
            vocab_size,
            context_length: model.context,
            rope_theta: model.rope_theta,
            rope_dim: head_dim,
            rope_scaling: RopeScaling::None,
            attention_scale: 1.0 / (head_dim as f64).sqrt(),
            sliding_window: None,
            embedding_scale: 1.0,
            norm_offset: 0.0,
            rms_norm_eps: 1e-5,
            activation: model.activation.0,
            tie_word_embeddings: Some(model.tied),
            bos_token_ids: Vec::new(),
            eos_token_ids: end_of_text.into_iter().collect(),
            weight_scale: ScaleDirection::Multiply,
            linear_norm_eps: 1e-5,
            activation_bits: (self.quantization.act_bits > 0).then_some(self.quantization.act_bits),
        }
    }
}

/// Why a recipe is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// Not TOML, or not these keys.
    #[error("{0}")]
    Toml(String),
    /// A setting that cannot be.
    #[error("{name}: {reason}")]
    Setting {
        /// Its name in the file.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use bitnet_ternary::Granularity;

    use super::*;

    #[test]
    fn a_recipe_comes_back_from_its_file() {
        for size in Size::ALL {
            let recipe = size.recipe();
            let text = recipe.to_toml();
            assert_eq!(Recipe::parse(&text).unwrap(), recipe, "{text}");
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        let mut recipe = Size::Tiny.recipe();
        recipe.quantization.scale = ScaleChoice(Granularity::Group(64));
        recipe.tokenizer = TokenizerChoice::File("a/tokenizer.json".into());
        assert_eq!(Recipe::parse(&recipe.to_toml()).unwrap(), recipe);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let text = Size::Tiny.recipe().to_toml();
        for (from, to, name) in [
            ("heads = 4", "heads = 5", "model.heads"),
            ("kv_heads = 1", "kv_heads = 3", "model.kv_heads"),
            ("act_bits = 8", "act_bits = 4", "quantization.act_bits"),
            ("scale = \"tensor\"", "scale = \"group:5\"", "group:N"),
            ("activation = \"relu2\"", "activation = \"gelu\"", "relu2"),
            ("layers = 4", "layers = 0", "model.layers"),
            ("layers = 4", "layer = 4", "layer"),
            ("max_steps = 2000", "max_steps = 0", "run.max_steps"),
            ("beta_1 = 0.9", "beta_1 = 1.0", "optimizer.beta_1"),
        ] {
            assert!(text.contains(from), "{from}\n{text}");
            let error = Recipe::parse(&text.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
