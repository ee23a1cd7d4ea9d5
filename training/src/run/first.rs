//! The model before the first step.

use std::path::Path;

use bitnet_model::{Initialize, Precision, Quantization, Transformer, load, load_trainable, ops::Activations};
use burn::tensor::{Device, FloatDType};

use crate::TrainError;
use crate::data::Batch;
use crate::recipe::{PrecisionChoice, Recipe, StorageChoice, WeightsChoice};
use crate::schedule::Progress;
use crate::step::DeviceBatch;
use crate::tokenizer::TokenizerFiles;

/// The model before the first step, on a device with gradients: fresh, or the one that the recipe trains further.
pub(super) fn first_model(
    recipe: &Recipe,
    tokenizer: &TokenizerFiles,
    device: &Device,
) -> Result<Transformer, TrainError> {
    let storage = match recipe.model.embedding {
        StorageChoice::F32 => FloatDType::F32,
        StorageChoice::F16 => FloatDType::F16,
        StorageChoice::Bf16 => FloatDType::BF16,
    };
    let quantization = quantization(recipe);
    if let Some(path) = &recipe.from {
        let checkpoint = bitnet_format::open(path)?;
        let (tokens, rows) = (tokenizer.tokenizer.vocab_size(), checkpoint.config().vocab_size);
        if tokens > rows {
            return Err(TrainError::Vocabulary { tokens, model: path.clone(), rows });
        }
        if let Some(lora) = &recipe.lora {
            let packed = load(&checkpoint, device)?.model;
            return Ok(packed.with_fresh_adapter(lora.rank, lora.alpha, recipe.seed));
        }
        let model = load_trainable(&checkpoint, quantization, storage, device)?.model;
        let lacks_norms = recipe.model.sub_norms && !model.has_sub_norms();
        return Ok(if lacks_norms { model.with_sub_norms(&vec![[1.0; 2]; recipe.model.layers]) } else { model });
    }
    let vocab_size = tokenizer.tokenizer.vocab_size();
    let initialize = Initialize {
        config: recipe.config(vocab_size, tokenizer.end_of_text()),
        sub_norms: recipe.model.sub_norms,
        inner_norms: recipe.model.inner_norms,
        quantization,
        storage,
        linear_std: recipe.model.init / (recipe.model.hidden as f64).sqrt(),
        embedding_std: recipe.model.embedding_init,
        seed: recipe.seed,
    };
    Ok(initialize.on(device)?)
}

/// What the float products of the linears take their operands in.
pub(super) fn precision(recipe: &Recipe) -> Precision {
    match recipe.batch.precision {
        PrecisionChoice::F32 => Precision::F32,
        PrecisionChoice::Bf16 => Precision::Bf16,
    }
}

/// What the linears compute in the first step.
fn quantization(recipe: &Recipe) -> Quantization {
    match recipe.quantization.weights {
        WeightsChoice::None => Quantization::None,
        WeightsChoice::Ternary => Quantization::Ternary {
            granularity: recipe.quantization.scale.0,
            activations: if recipe.quantization.act_bits > 0 { Activations::Int8 } else { Activations::Float },
            lambda: recipe.quantization.lambda.at(Progress::of_steps(0, recipe.run.max_steps.max(1))) as f32,
        },
    }
}

/// The model that the recipe begins with as the float model it is, without gradients.
pub(super) fn teacher(from: &Path, device: &Device) -> Result<Transformer, TrainError> {
    let checkpoint = bitnet_format::open(from)?;
    Ok(load_trainable(&checkpoint, Quantization::None, FloatDType::F32, device)?.model)
}

/// The student with the norms that its teacher lacks, so weighted that what they pass on is about as large as it was in the
/// teacher on some text.
pub(super) fn calibrated(student: Transformer, teacher: &Transformer, text: &Batch) -> Transformer {
    let text = DeviceBatch::new(text, teacher, teacher.device(), None);
    let scales = teacher.projected_scales(text.inputs(), text.sequences());
    student.with_sub_norms(&scales)
}
