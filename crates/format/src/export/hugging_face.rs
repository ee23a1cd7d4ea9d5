//! A model as a folder that transformers loads.

use std::path::Path;

use bitnet_ternary::{Packing, Scale, TernaryMatrix, quantize};
use serde_json::Value as Json;

use super::encode::{self, Payload};
use super::folder::Staging;
use super::plan::{Plan, is_linear, is_own_norm};
use super::{
    Draft, Model, Tensor, TensorData, TensorKind, floats, hugging_face_config as config, sentence_transformers,
};
use crate::{FormatError, SafetensorsTensorWriter, SafetensorsWriter, StorageType, TokenizerSource, embedding};

const WEIGHTS: &str = "model.safetensors";

/// Every file that a folder can have.
static FILES: [&str; 9] = [
    "config.json",
    "generation_config.json",
    WEIGHTS,
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    embedding::MODULES,
    sentence_transformers::POOLING_CONFIG,
    embedding::CONFIG,
];

/// How a folder stores its linears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HuggingFaceForm {
    /// Four trits a byte, `linear_class` `autobitlinear`: `weight_scale` multiplies. The form of BitNet b1.58 2B-4T.
    PackedAutoBitLinear,
    /// Four trits a byte, `linear_class` `bitlinear`: `weight_scale` divides. The form of Falcon-E and Llama3-8B-1.58.
    /// The divisor is the f32 whose inverse is nearest to the scale: the scale itself where there is one, else a neighbour.
    PackedBitLinear,
    /// Floats. Linears given as floats are masters, which a reader quantizes (`quantization_mode` `online`); linears given as
    /// trits are stored as `trit · scale`, to be used as they are (`offline`, with a `weight_scale` of 1).
    Master,
}

/// What is to be chosen of a Hugging Face folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HuggingFaceOptions {
    /// How linears are stored.
    pub form: HuggingFaceForm,
    /// What every float becomes, scales among them: `F32`, `F16` or `BF16`. transformers computes in this type and fails on
    /// a folder that mixes several. `F32` holds every scale; a scale that is no number of the other types is an error.
    pub dtype: StorageType,
}

impl Default for HuggingFaceOptions {
    /// The form of BitNet b1.58 2B-4T, in F32.
    fn default() -> Self {
        Self { form: HuggingFaceForm::PackedAutoBitLinear, dtype: StorageType::F32 }
    }
}

impl HuggingFaceForm {
    pub(super) fn is_packed(self) -> bool {
        self != Self::Master
    }
}

/// Writes a model as a folder at `path`, asking `data` for its tensors in the declared order.
///
/// The class is `BitNetForCausalLM` for a model with sub-norms, `Gemma3ForCausalLM` for one with norms after attention and
/// MLP, `Qwen3ForCausalLM` for another with norms of Q and K, and `LlamaForCausalLM` for one with none of these. That of an
/// embedding model is the same without a head, and the folder has the files of sentence-transformers that say how it pools.
/// What Gemma's class adds to the weights of its norms is taken off them, which F32 holds to the last bit from one half
/// on. The folder takes its name when it is complete; before that, and after a failure, nothing is there.
///
/// # Errors
///
/// [`FormatError`] when `path` exists and `overwrite` is false, or is anything but such a folder; when the tensors are not
/// those of the configuration; when the form or transformers' class has no place for a tensor, a scale or something in the
/// configuration; when the tokenizer is no `tokenizer.json`, a number does not fit its type, or writing fails. Whatever
/// `data` fails with.
pub fn write_hugging_face<E: From<FormatError>>(
    model: &Model,
    options: &HuggingFaceOptions,
    path: &Path,
    overwrite: bool,
    data: impl FnMut(&Tensor) -> Result<TensorData, E>,
) -> Result<(), E> {
    Ok(draft_hugging_face(model, options, path, overwrite, data)?.publish()?)
}

/// [`write_hugging_face`] without giving the folder its name.
///
/// # Errors
///
/// As there.
pub fn draft_hugging_face<'a, E: From<FormatError>>(
    model: &Model,
    options: &HuggingFaceOptions,
    path: &'a Path,
    overwrite: bool,
    mut data: impl FnMut(&Tensor) -> Result<TensorData, E>,
) -> Result<Draft<'a>, E> {
    floats::check_dtype(path, options.dtype)?;
    if options.dtype.block_format().is_some() {
        return Err(FormatError::unsupported(
            path,
            format!("a folder of {} (F32, F16 and BF16 can be)", options.dtype),
        )
        .into());
    }
    let plan = Plan::new(path, model)?;
    let config::Configuration { json: config_json, norm_offset } = config::config(path, model, plan, options)?;
    let weights = Weights { path, options: *options, norm_offset };
    let mut writer = SafetensorsWriter::new();
    writer.metadata("format", "pt")?;
    for tensor in &model.tensors {
        weights.declare(tensor, &mut writer)?;
    }
    let staging = Staging::begin(path, overwrite, &FILES)?;
    staging.write("config.json", &config::pretty(&config_json))?;
    for (name, bytes) in tokenizer_files(path, model)? {
        staging.write(name, &bytes)?;
    }
    if let Some(embedding) = &model.embedding {
        for (name, json) in sentence_transformers::files(path, embedding, &model.config)? {
            staging.write(name, &config::pretty(&json))?;
        }
    }
    let placed = |error| staging.placed(error);
    let mut out = writer.create(staging.path(WEIGHTS), false).map_err(placed)?;
    for tensor in &model.tensors {
        weights.write(tensor, data(tensor)?, &mut out).map_err(placed)?;
    }
    out.finish().map_err(placed)?;
    Ok(Draft::folder(staging))
}

/// The tokenizer's files, and `generation_config.json`.
///
/// # Errors
///
/// When the tokenizer is the vocabulary of a GGUF file, no JSON, or has more tokens than the embedding has rows.
pub(super) fn tokenizer_files(path: &Path, model: &Model) -> Result<Vec<(&'static str, Vec<u8>)>, FormatError> {
    let mut files = Vec::new();
    let generation = match &model.tokenizer {
        TokenizerSource::Gguf(tokenizer) => {
            let what = format!("the vocabulary of a GGUF file ({}) as tokenizer.json", tokenizer.path.display());
            return Err(FormatError::unsupported(path, what));
        }
        TokenizerSource::Missing => None,
        TokenizerSource::Hf { path, tokenizer_json, tokenizer_config, chat_template, generation_config } => {
            let tokenizer: Json =
                serde_json::from_slice(tokenizer_json).map_err(|e| FormatError::damaged(path, e.to_string()))?;
            let tokens = config::token_count(&tokenizer);
            if tokens > model.config.vocab_size as u64 {
                let what = format!("{tokens} tokens with an embedding of {} rows", model.config.vocab_size);
                return Err(FormatError::unsupported(path, what));
            }
            files.push(("tokenizer.json", tokenizer_json.to_vec()));
            let tokenizer_config = match tokenizer_config {
                Some(config) => config.clone(),
                None => config::tokenizer_config(&model.config, &tokenizer),
            };
            files.push(("tokenizer_config.json", config::pretty(&tokenizer_config)));
            if let Some(template) = chat_template {
                files.push(("chat_template.jinja", template.clone().into_bytes()));
            }
            generation_config.as_ref()
        }
    };
    files.push(("generation_config.json", config::pretty(&config::generation_config(&model.config, generation))));
    Ok(files)
}

/// How tensors are named, stored and written.
struct Weights<'a> {
    path: &'a Path,
    options: HuggingFaceOptions,
    /// What the class adds to the weights of its norms.
    norm_offset: f32,
}

impl Weights<'_> {
    fn declare(&self, tensor: &Tensor, writer: &mut SafetensorsWriter) -> Result<(), FormatError> {
        let refuse = |reason: String| Err(FormatError::tensor(self.path, &tensor.name, reason));
        let HuggingFaceOptions { form, dtype } = self.options;
        match tensor.kind {
            TensorKind::Ternary => {
                if !is_linear(&tensor.name) {
                    return refuse("is ternary, and transformers has only linears so".to_string());
                }
                match (form, &tensor.shape[..]) {
                    (HuggingFaceForm::Master, shape) => writer.tensor(&tensor.name, dtype, shape)?,
                    (_, &[rows, cols]) if rows.is_multiple_of(4) => {
                        writer.tensor(&tensor.name, StorageType::U8, &[rows / 4, cols])?
                    }
                    (_, shape) => return refuse(format!("has {} rows, and four share a byte", shape[0])),
                };
                writer.tensor(&scale_name(tensor), dtype, &[1])?;
            }
            _ if form.is_packed() && is_linear(&tensor.name) => {
                return refuse("is not ternary, and a packed folder holds trits".to_string());
            }
            TensorKind::Stored(stored) if stored != dtype => {
                return refuse(format!("is passed through as {stored} into a folder of {dtype}"));
            }
            TensorKind::Floats | TensorKind::Stored(_) => {
                writer.tensor(&stored_name(&tensor.name), dtype, &tensor.shape)?;
            }
        }
        Ok(())
    }

    fn write(
        &self,
        tensor: &Tensor,
        mut data: TensorData,
        out: &mut SafetensorsTensorWriter,
    ) -> Result<(), FormatError> {
        if tensor.kind == TensorKind::Ternary {
            let matrix = encode::matrix(self.path, tensor, data)?;
            return self.write_matrix(tensor, &matrix, out);
        }
        if let TensorData::Floats(weights) = &mut data
            && is_own_norm(&tensor.name)
        {
            weights.iter_mut().for_each(|weight| *weight -= self.norm_offset);
        }
        let payload = Payload::plain(self.path, tensor, data, self.options.dtype)?;
        let name = stored_name(&tensor.name);
        out.write_with(&name, |out| payload.write_to(self.path, &tensor.name, out)).map_err(encode::cause)
    }

    fn write_matrix(
        &self,
        tensor: &Tensor,
        matrix: &TernaryMatrix,
        out: &mut SafetensorsTensorWriter,
    ) -> Result<(), FormatError> {
        let HuggingFaceOptions { form, dtype } = self.options;
        let (weight, scale) = match form {
            HuggingFaceForm::Master => (self.floats(tensor, matrix)?, 1.0),
            _ => {
                (encode::pack(self.path, &tensor.name, Packing::HfPacked, matrix)?, self.weight_scale(tensor, matrix)?)
            }
        };
        out.write_with(&tensor.name, |out| weight.write_to(self.path, &tensor.name, out)).map_err(encode::cause)?;
        let scale = Payload::Floats { values: vec![scale], dtype };
        out.write_with(&scale_name(tensor), |out| scale.write_to(self.path, &tensor.name, out)).map_err(encode::cause)
    }

    /// `trit · scale`, if a reader will see from them that they are that.
    fn floats(&self, tensor: &Tensor, matrix: &TernaryMatrix) -> Result<Payload, FormatError> {
        for scale in matrix.scale().values() {
            self.check_exact(tensor, *scale, *scale)?;
        }
        let values = matrix.to_f32();
        // Perhaps with scales of whole rows, where those of groups are the same.
        let read = quantize::already_ternary(&values, matrix.rows(), matrix.cols());
        if read.is_none_or(|read| read.words() != matrix.words()) {
            let reason = "could not be told from a master by its floats: pack it";
            return Err(FormatError::tensor(self.path, &tensor.name, reason));
        }
        Ok(Payload::Floats { values, dtype: self.options.dtype })
    }

    fn weight_scale(&self, tensor: &Tensor, matrix: &TernaryMatrix) -> Result<f32, FormatError> {
        let refuse = |reason: String| FormatError::tensor(self.path, &tensor.name, reason);
        let scale = match matrix.scale() {
            // Of a matrix of zeros any scale is right, and none is stored by some formats.
            Scale::Tensor(0.0) if matrix.zero_fraction() == 1.0 => 1.0,
            Scale::Tensor(scale) => *scale,
            other => {
                let reason = format!("has {}, where a packed folder has one for the tensor", other.granularity());
                return Err(refuse(reason));
            }
        };
        let HuggingFaceOptions { form, dtype } = self.options;
        let stored = if form == HuggingFaceForm::PackedBitLinear { divisor(scale, dtype) } else { scale };
        if !(stored.is_normal() && (1.0 / stored).is_finite()) {
            return Err(refuse(format!("has the scale {scale:e}, which cannot be stored as a weight_scale")));
        }
        self.check_exact(tensor, scale, stored)?;
        Ok(stored)
    }

    /// Refuses a scale if what is stored of it would be rounded.
    fn check_exact(&self, tensor: &Tensor, scale: f32, stored: f32) -> Result<(), FormatError> {
        let dtype = self.options.dtype;
        if floats::rounded(stored, dtype) != stored {
            let reason =
                format!("has the scale {scale:e}, and {stored:e} is no {dtype} number (F32 holds every scale)");
            return Err(FormatError::tensor(self.path, &tensor.name, reason));
        }
        Ok(())
    }
}

/// The name of a linear's scale.
fn scale_name(tensor: &Tensor) -> String {
    format!("{}_scale", tensor.name)
}

/// The number whose inverse is nearest to `scale`, one of type `dtype` if that is as near as any. The number nearest to the
/// inverse of `scale` need not be that number.
fn divisor(scale: f32, dtype: StorageType) -> f32 {
    let inverse = 1.0 / scale;
    let error = |divisor: f32| (f64::from(1.0 / divisor) - f64::from(scale)).abs();
    let closer = |best: f32, other: f32| if error(other) < error(best) { other } else { best };
    [inverse, inverse.next_down(), inverse.next_up()].into_iter().fold(floats::rounded(inverse, dtype), closer)
}

/// The norm before a linear has another name in transformers.
fn stored_name(name: &str) -> String {
    match name.strip_suffix("_proj.norm.weight") {
        Some(linear) => format!("{linear}_proj.rms_norm.weight"),
        None => name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::divisor;
    use crate::StorageType;

    #[test]
    fn divisors_give_their_scale_back_to_the_last_bit_but_one() {
        let mut exact = 0;
        for i in 0..10_000u32 {
            let scale = f32::from_bits(0x3c00_0000 + i * 1_234);
            let back = 1.0 / divisor(scale, StorageType::F32);
            assert!(back.to_bits().abs_diff(scale.to_bits()) <= 1, "{scale:e} came back as {back:e}");
            exact += u32::from(back == scale);
        }
        assert!(exact > 8_000, "{exact} of 10000");
        // What another program stored is found again.
        for stored in [1.0f32, 37.5, 50.0, 0.296_875, 6144.0] {
            assert_eq!(divisor(1.0 / stored, StorageType::BF16), stored);
        }
    }
}
