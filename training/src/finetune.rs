//! The recipe with which a model is trained further.

use std::path::Path;

use bitnet_format::{Checkpoint, StorageType};
use bitnet_ternary::Granularity;

use crate::TrainError;
use crate::data::Source;
use crate::recipe::{
    ActivationChoice, DistillationRecipe, Model, Packing, PreferenceRecipe, Recipe, ScaleChoice, Size, StorageChoice,
    TokenizerChoice, WeightsChoice,
};
use crate::schedule::{LambdaSchedule, LearningRate, LearningRateSchedule, Span, WeightDecay, WeightDecaySchedule};
use crate::tokenizer::begins_with_chat;

/// Learning rate of fine-tuning, about ten times that of float models: a smaller one turns few trits.
///
/// Source: the fine-tuning recipe of Falcon-E (Technology Innovation Institute, `onebitllms`, 2025).
const LEARNING_RATE: f64 = 1e-4;

impl Recipe {
    /// A recipe that trains the ternary model at `from` further on conversations or texts: its own network and tokenizer,
    /// a learning rate of 1e-4 that falls along a cosine, no weight decay, and conversations one a row.
    ///
    /// # Errors
    /// When the model or the data cannot be read.
    pub fn to_finetune(from: &Path, data: &Source) -> Result<Self, TrainError> {
        let mut recipe = further(from)?;
        let chat = begins_with_chat(data)?;
        recipe.batch.packing = if chat { Packing::Documents } else { Packing::Rows };
        Ok(recipe)
    }

    /// A recipe that teaches the ternary model at `from` which of two replies is better: beta 0.1, a learning rate of 2e-7.
    ///
    /// Source: Microsoft Research, "BitNet b1.58 2B4T Technical Report" (arXiv 2504.12285), section 3.3.
    ///
    /// # Errors
    /// When the model cannot be read.
    pub fn to_prefer(from: &Path) -> Result<Self, TrainError> {
        let mut recipe = further(from)?;
        recipe.preference = Some(PreferenceRecipe { beta: 0.1 });
        recipe.batch.packing = Packing::Documents;
        recipe.batch.rows = 8;
        recipe.optimizer.learning_rate.peak = 2e-7;
        Ok(recipe)
    }

    /// A recipe that makes a ternary model of the float model at `teacher`: norms before the projections back to the residual
    /// stream, quantization that is phased in over the first tenth of the run, and a loss that is half the next token and half
    /// what the teacher says of it, at temperature 2.
    ///
    /// Sources: Hugging Face, "Fine-tuning LLMs to 1.58bit" (2024), for the phase; Wu et al., "BitNet Distillation" (arXiv
    /// 2510.13998), for the norms and the losses.
    ///
    /// # Errors
    /// When the teacher or the data cannot be read.
    pub fn to_distill(teacher: &Path, data: &Source) -> Result<Self, TrainError> {
        let mut recipe = Self::to_finetune(teacher, data)?;
        recipe.model.sub_norms = true;
        recipe.quantization.scale = ScaleChoice(Granularity::Tensor);
        recipe.quantization.act_bits = 8;
        recipe.quantization.lambda = LambdaSchedule::Linear { over: Span::Share(0.1) };
        recipe.distillation = Some(DistillationRecipe {
            likelihood: 0.5,
            logits: 0.5,
            temperature: 2.0,
            relations: 0.0,
            // A late layer: what the teacher makes of a text is there, and the head is not yet.
            layer: recipe.model.layers * 3 / 4,
        });
        recipe.run.max_steps = 2000;
        Ok(recipe)
    }
}

/// What these have in common.
fn further(from: &Path) -> Result<Recipe, TrainError> {
    let checkpoint = bitnet_format::open(from)?;
    let mut recipe = Size::M100.recipe();
    recipe.tokenizer = TokenizerChoice::Model;
    recipe.from = Some(from.to_path_buf());
    recipe.model = network(&checkpoint);
    let quantization = &mut recipe.quantization;
    quantization.weights = WeightsChoice::Ternary;
    quantization.scale = ScaleChoice(granularity(&checkpoint)?);
    quantization.act_bits = checkpoint.config().activation_bits.unwrap_or(0);
    recipe.batch.rows = 16;
    let optimizer = &mut recipe.optimizer;
    optimizer.learning_rate = LearningRate {
        peak: LEARNING_RATE,
        warmup: Span::Share(0.03),
        schedule: LearningRateSchedule::Cosine { floor: 0.1 },
    };
    optimizer.weight_decay = WeightDecay { value: 0.0, schedule: WeightDecaySchedule::Constant };
    let run = &mut recipe.run;
    (run.max_steps, run.validate_every, run.checkpoint_every, run.sample_every) = (500, 50, 100, 0);
    Ok(recipe)
}

/// The network of a model file, as a recipe describes it.
fn network(checkpoint: &Checkpoint) -> Model {
    let config = checkpoint.config();
    let has = |name: &str| checkpoint.info(name).is_some();
    let embedding = match checkpoint.info("model.embed_tokens.weight").map(|info| info.dtype) {
        Some(StorageType::F32) => StorageChoice::F32,
        Some(StorageType::BF16) => StorageChoice::Bf16,
        _ => StorageChoice::F16,
    };
    Model {
        layers: config.num_layers,
        hidden: config.hidden_size,
        ffn: config.intermediate_size,
        heads: config.num_heads,
        kv_heads: config.num_kv_heads,
        context: config.context_length,
        sub_norms: has("model.layers.0.self_attn.attn_sub_norm.weight"),
        inner_norms: has("model.layers.0.self_attn.q_proj.norm.weight"),
        activation: ActivationChoice(config.activation),
        tied: !has("lm_head.weight"),
        rope_theta: config.rope_theta,
        embedding,
        // Of fresh weights, of which there are none.
        init: 1.0,
        embedding_init: 0.02,
    }
}

/// The weights that share a scale.
fn granularity(checkpoint: &Checkpoint) -> Result<Granularity, TrainError> {
    let config = checkpoint.config();
    let matrix = checkpoint.ternary("model.layers.0.mlp.up_proj", config.intermediate_size, config.hidden_size)?;
    Ok(matrix.granularity())
}
