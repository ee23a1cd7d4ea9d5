//! From a model in training to files that run.

use std::path::Path;

use bitnet_format::export::{
    BurnpackOptions, GgufOptions, HuggingFaceForm, HuggingFaceOptions, Model, Tensor, TensorData, write_burnpack,
    write_gguf, write_hugging_face,
};
use bitnet_format::{ModelConfig, StorageType, TokenizerSource};
use bitnet_model::{BitLinear, Transformer};
use bitnet_ternary::Packing;
use burn::tensor::FloatDType;

use crate::TrainError;
use crate::tokenizer::TokenizerFiles;

/// What a model is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// A GGUF file with this packing.
    Gguf(Packing),
    /// A Hugging Face folder with packed linears, `linear_class` `autobitlinear`.
    HfPacked,
    /// The same with `linear_class` `bitlinear`.
    HfPackedBitLinear,
    /// A Hugging Face folder with `trit * scale` as floats: for scales of rows or groups, and float activations.
    HfTernary,
    /// A Hugging Face folder with the latent weights.
    HfMaster,
    /// A burnpack file, as Burn saves the model once its linears are packed.
    Burnpack,
}

/// Writes a model in training to `path`. Trits and scales are those of its forward pass, never quantized again.
///
/// # Errors
/// When something is there and `overwrite` is false, a weight is not finite, the format cannot hold the model, or writing
/// fails; nothing is left behind then.
pub fn export(
    model: &Transformer,
    tokenizer: &TokenizerFiles,
    name: &str,
    format: ExportFormat,
    path: &Path,
    overwrite: bool,
) -> Result<(), TrainError> {
    let master = format == ExportFormat::HfMaster;
    let linears: Vec<(String, &BitLinear)> = model.linears().collect();
    if linears.iter().any(|(_, linear)| linear.lora().is_some()) {
        return Err(TrainError::Unmerged);
    }
    if !master && linears.iter().any(|(_, linear)| linear.latent_weights().is_some_and(|w| !w.is_quantized())) {
        return Err(TrainError::NoTrits);
    }
    let floats = match model.dense().next().and_then(|(_, matrix)| matrix.storage()) {
        Some(FloatDType::F16) => StorageType::F16,
        Some(FloatDType::BF16) => StorageType::BF16,
        _ => StorageType::F32,
    };
    let mut tensors: Vec<Tensor> = model
        .dense()
        .map(|(name, matrix)| Tensor::floats(name, &[matrix.rows(), model.config().hidden_size]))
        .collect();
    for (name, linear) in &linears {
        let (name, [rows, cols]) = (format!("{name}.weight"), [linear.d_output(), linear.d_input()]);
        tensors.push(if master { Tensor::floats(name, &[rows, cols]) } else { Tensor::ternary(name, rows, cols) });
    }
    let norms: Vec<_> = model.norms().collect();
    let own = linears.iter().filter_map(|(name, linear)| Some((format!("{name}.norm"), linear.norm()?)));
    let norms: Vec<_> = norms.into_iter().chain(own).collect();
    for (name, norm) in &norms {
        tensors.push(Tensor::floats(format!("{name}.weight"), &norm.weight().dims()));
    }
    let files = Model {
        name: name.to_string(),
        // The norms of a model in memory have what its class adds to them.
        config: ModelConfig { eos_token_ids: tokenizer.ends(), norm_offset: 0.0, ..model.config().clone() },
        embedding: None,
        tokenizer: TokenizerSource::Hf {
            path: "tokenizer.json".into(),
            tokenizer_json: tokenizer.tokenizer_json.clone().into(),
            tokenizer_config: tokenizer.config.clone(),
            chat_template: tokenizer.chat_template.clone(),
            generation_config: tokenizer.generation_config.clone(),
        },
        tensors,
    };
    let data = |tensor: &Tensor| -> Result<TensorData, TrainError> {
        let base = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
        if let Some((_, linear)) = linears.iter().find(|(name, _)| name == base) {
            return Ok(match linear.latent_weights().filter(|_| master) {
                Some(latent) => TensorData::Floats(latent.value().into_data().iter().collect()),
                None => TensorData::Ternary(linear.ternary()?),
            });
        }
        if let Some((_, norm)) = norms.iter().find(|(name, _)| name == base) {
            return Ok(TensorData::Floats(norm.weight().val().into_data().iter().collect()));
        }
        let dense = model.dense().find(|(name, _)| *name == tensor.name);
        let matrix = dense.map(|(_, matrix)| matrix).expect("every tensor was declared from the model");
        Ok(TensorData::Floats(matrix.floats().into_data().iter().collect()))
    };
    let form = match format {
        ExportFormat::Gguf(packing) => {
            let options = GgufOptions { packing, floats, ..GgufOptions::default() };
            return write_gguf(&files, &options, path, overwrite, data);
        }
        ExportFormat::Burnpack => return write_burnpack(&files, &BurnpackOptions { floats }, path, overwrite, data),
        ExportFormat::HfPacked => HuggingFaceForm::PackedAutoBitLinear,
        ExportFormat::HfPackedBitLinear => HuggingFaceForm::PackedBitLinear,
        ExportFormat::HfTernary | ExportFormat::HfMaster => HuggingFaceForm::Master,
    };
    // Scales are any f32, and a folder has one type for all its floats.
    let options = HuggingFaceOptions { form, dtype: StorageType::F32 };
    write_hugging_face(&files, &options, path, overwrite, data)
}
