//! A model as a GGUF file.

use std::path::Path;

use bitnet_ternary::Packing;

use super::encode::{self, Payload};
use super::plan::{Plan, is_linear};
use super::{Draft, Model, Tensor, TensorData, TensorKind, floats, gguf_keys};
use crate::config::has_interleaved_rope;
use crate::gguf::Writer;
use crate::names::{ROPE_FREQS, hf_to_gguf, hf_to_two_sided_gguf};
use crate::{Activation, FormatError, StorageType};

/// `general.architecture`: which programs can load the file, and what they make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// `bitnet-b1.58`, of bitnet.cpp and ik_llama.cpp: sub-norms, squared ReLU.
    BitnetB158,
    /// `bitnet-25`, the name of the same before April 2025.
    Bitnet25,
    /// `bitnet`, of llama.cpp too: sub-norms, and SiLU to programs that do not know the key `bitnet.hidden_activation`.
    Bitnet,
    /// `llama`, of all programs: neither sub-norms nor norms of Q and K, SiLU. Rows of Q and K are stored in the order of
    /// interleaved rotary pairs.
    Llama,
    /// `qwen3`, of programs that run embedding models: norms of Q and K.
    Qwen3,
    /// `gemma3`, of the same: norms of Q and K and on both sides of attention and MLP, GELU, layers with sliding windows.
    Gemma3,
}

impl Architecture {
    fn name(self) -> &'static str {
        match self {
            Self::BitnetB158 => "bitnet-b1.58",
            Self::Bitnet25 => "bitnet-25",
            Self::Bitnet => "bitnet",
            Self::Llama => "llama",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3",
        }
    }

    /// The architecture under which other programs load such a model; see [`GgufOptions::architecture`].
    fn of(plan: Plan, activation: Activation) -> Self {
        match plan {
            Plan { two_sided: true, .. } => Self::Gemma3,
            Plan { sub_norms: true, .. } if activation == Activation::Silu => Self::Bitnet,
            Plan { sub_norms: true, .. } => Self::BitnetB158,
            Plan { qk_norms: true, .. } => Self::Qwen3,
            Plan { linear_norms: false, .. } if activation == Activation::Silu => Self::Llama,
            _ => Self::BitnetB158,
        }
    }

    /// Refuses a model that programs would run wrongly, or not load, as a `llama`.
    fn check(self, file: &Path, model: &Model) -> Result<(), FormatError> {
        if self != Self::Llama {
            return Ok(());
        }
        if model.config.activation != Activation::Silu {
            let what =
                format!("the architecture llama with {:?}: programs run its models with SiLU", model.config.activation);
            return Err(FormatError::unsupported(file, what));
        }
        let extra = [
            "_sub_norm.weight",
            ".q_norm.weight",
            ".k_norm.weight",
            "_proj.norm.weight",
            "_feedforward_layernorm.weight",
        ];
        match model.tensors.iter().find(|t| extra.iter().any(|ending| t.name.ends_with(ending))) {
            Some(norm) => Err(FormatError::tensor(file, &norm.name, "is a norm that the architecture llama lacks")),
            None => Ok(()),
        }
    }
}

/// What is to be chosen of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufOptions {
    /// How ternary tensors are packed. Default: [`Packing::I2S`].
    pub packing: Packing,
    /// What matrices of floats become: the embedding, a head, linears given as floats. `F32`, `F16` (the default) or `BF16`;
    /// without float linears also `Q8_0` or `Q6_K`. Norms are `F32` always: the programs that read them need it.
    pub floats: StorageType,
    /// Default: the one under which other programs load such a model: with sub-norms `bitnet-b1.58`, or `bitnet` where the
    /// activation is SiLU, `gemma3` with norms after attention and MLP, `qwen3` with norms of Q and K, `llama` with no norms
    /// but each layer's two and with SiLU. Anything else is `bitnet-b1.58`, so that they refuse it rather than run it
    /// wrongly.
    pub architecture: Option<Architecture>,
}

impl Default for GgufOptions {
    fn default() -> Self {
        Self { packing: Packing::I2S, floats: StorageType::F16, architecture: None }
    }
}

/// Writes a model to `path`, asking `data` for its tensors in the declared order.
///
/// The file has all that readers want: hyperparameters, `general.file_type`, `hidden_activation` where the architecture
/// does not give it away, how an embedding model pools, the vocabulary with token types, merges and pre-tokenizer, the
/// tokens that begin and end a text, and the chat template. It takes its name when it is complete; before that, and after a failure, nothing is there.
///
/// # Errors
///
/// [`FormatError`] when `path` exists and `overwrite` is false; when the tensors are not those of the configuration;
/// when GGUF has no word for something in the configuration or the tokenizer; when the packing cannot hold a tensor's shape or
/// scales, a number does not fit its type, or writing fails. Whatever `data` fails with.
pub fn write_gguf<E: From<FormatError>>(
    model: &Model,
    options: &GgufOptions,
    path: &Path,
    overwrite: bool,
    data: impl FnMut(&Tensor) -> Result<TensorData, E>,
) -> Result<(), E> {
    Ok(draft_gguf(model, options, path, overwrite, data)?.publish()?)
}

/// [`write_gguf`] without giving the file its name.
///
/// # Errors
///
/// As there.
pub fn draft_gguf<'a, E: From<FormatError>>(
    model: &Model,
    options: &GgufOptions,
    path: &'a Path,
    overwrite: bool,
    mut data: impl FnMut(&Tensor) -> Result<TensorData, E>,
) -> Result<Draft<'a>, E> {
    floats::check_dtype(path, options.floats)?;
    let plan = Plan::new(path, model)?;
    let architecture = options.architecture.unwrap_or_else(|| Architecture::of(plan, model.config.activation));
    architecture.check(path, model)?;
    let keys = gguf_keys::keys(path, model, plan, architecture.name(), options)?;
    let file = File { model, path, options, interleaved: has_interleaved_rope(architecture.name()) };

    let mut writer = Writer::with_metadata(keys.metadata);
    if let Some(factors) = &keys.rope_factors {
        writer.tensor(ROPE_FREQS, StorageType::F32, &[factors.len()])?;
    }
    let mut names = Vec::with_capacity(model.tensors.len());
    let name_of = if plan.two_sided { hf_to_two_sided_gguf } else { hf_to_gguf };
    for tensor in &model.tensors {
        let name = name_of(&tensor.name)
            .ok_or_else(|| FormatError::tensor(path, &tensor.name, "has no name in GGUF files"))?;
        writer.tensor(&name, file.storage(tensor)?, &tensor.shape)?;
        names.push(name);
    }
    let mut out = writer.create(path, overwrite)?;
    if let Some(factors) = &keys.rope_factors {
        let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
        out.write(ROPE_FREQS, &bytes)?;
    }
    for (tensor, name) in model.tensors.iter().zip(&names) {
        let payload = file.payload(tensor, data(tensor)?)?;
        out.write_with(name, |out| payload.write_to(path, &tensor.name, out)).map_err(encode::cause)?;
    }
    Ok(Draft::file(out.finish_unnamed()?))
}

/// What the bytes of a tensor depend on.
struct File<'a> {
    model: &'a Model,
    path: &'a Path,
    options: &'a GgufOptions,
    interleaved: bool,
}

impl File<'_> {
    fn storage(&self, tensor: &Tensor) -> Result<StorageType, FormatError> {
        Ok(match tensor.kind {
            TensorKind::Floats if tensor.shape.len() == 1 => StorageType::F32,
            TensorKind::Floats if is_linear(&tensor.name) && self.options.floats.block_format().is_some() => {
                let reason = format!("is given as floats, and {} holds no linear", self.options.floats);
                return Err(FormatError::tensor(self.path, &tensor.name, reason));
            }
            TensorKind::Floats => self.options.floats,
            TensorKind::Stored(dtype) => dtype,
            TensorKind::Ternary => {
                let held = self.options.packing.packed_len(tensor.shape[0], tensor.shape[1]);
                held.map_err(|source| FormatError::Ternary {
                    file: self.path.to_path_buf(),
                    tensor: tensor.name.clone(),
                    source,
                })?;
                StorageType::Ternary(self.options.packing)
            }
        })
    }

    fn payload(&self, tensor: &Tensor, data: TensorData) -> Result<Payload, FormatError> {
        let heads = self.heads(tensor);
        if tensor.kind != TensorKind::Ternary {
            let payload = Payload::plain(self.path, tensor, data, self.storage(tensor)?)?;
            return Ok(match heads {
                Some(heads) => payload.interleave(tensor, heads)?,
                None => payload,
            });
        }
        let matrix = encode::matrix(self.path, tensor, data)?;
        match heads {
            Some(heads) => {
                encode::pack(self.path, &tensor.name, self.options.packing, &encode::interleave_matrix(&matrix, heads))
            }
            None => encode::pack(self.path, &tensor.name, self.options.packing, &matrix),
        }
    }

    /// The number of heads of a tensor whose rows are to be interleaved.
    fn heads(&self, tensor: &Tensor) -> Option<usize> {
        let config = &self.model.config;
        match &tensor.name {
            _ if !self.interleaved => None,
            name if name.ends_with(".self_attn.q_proj.weight") => Some(config.num_heads),
            name if name.ends_with(".self_attn.k_proj.weight") => Some(config.num_kv_heads),
            _ => None,
        }
    }
}
