//! Which tensors a model of some configuration has, and that the declared ones are those.

use std::collections::HashMap;
use std::path::Path;

use super::{Model, Tensor, TensorKind};
use crate::names::ROPE_FREQS;
use crate::{FormatError, ModelConfig, StorageType};

pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(super) const HEAD: &str = "lm_head.weight";

/// The parts that a model may have or lack.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Norms before `o_proj` and `down_proj`.
    pub(super) sub_norms: bool,
    /// Norms of the heads of Q and K.
    pub(super) qk_norms: bool,
    /// A norm before each linear.
    pub(super) linear_norms: bool,
    /// Norms after attention and MLP too, as Gemma 3 has them.
    pub(super) two_sided: bool,
    /// A head of its own.
    pub(super) head: bool,
    /// Linears that are trits, not floats.
    pub(super) ternary: bool,
}

impl Plan {
    /// What the names of a model's tensors tell of it.
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut plan = Self {
            sub_norms: false,
            qk_norms: false,
            linear_norms: false,
            two_sided: false,
            head: false,
            ternary: false,
        };
        for name in names {
            plan.sub_norms |= name.ends_with("_sub_norm.weight");
            plan.qk_norms |= name.ends_with(".q_norm.weight") || name.ends_with(".k_norm.weight");
            plan.linear_norms |= name.ends_with("_proj.norm.weight");
            plan.two_sided |= name.ends_with("_feedforward_layernorm.weight");
            plan.head |= name == HEAD;
        }
        plan
    }

    /// Checks the declared tensors against the configuration.
    ///
    /// # Errors
    ///
    /// When a tensor is missing, there twice, of another shape than the configuration asks for, of a kind that cannot
    /// be, or no part of such a model.
    pub(super) fn new(file: &Path, model: &Model) -> Result<Self, FormatError> {
        let mut plan = Self::of(model.tensors.iter().map(|t| t.name.as_str()));
        plan.ternary = model.tensors.iter().any(|t| is_linear(&t.name) && t.kind == TensorKind::Ternary);
        let mut missing: HashMap<String, Vec<usize>> = plan.tensors(&model.config).into_iter().collect();
        for tensor in &model.tensors {
            let refuse = |reason: String| FormatError::tensor(file, &tensor.name, reason);
            if tensor.name == ROPE_FREQS {
                return Err(refuse("is made of the configuration's rope_scaling and not given".to_string()));
            }
            let Some(shape) = missing.remove(&tensor.name) else {
                let twice = model.tensors.iter().filter(|t| t.name == tensor.name).count() > 1;
                let reason = if twice { "is declared twice" } else { "is no part of a model of this configuration" };
                return Err(refuse(reason.to_string()));
            };
            if tensor.shape != shape {
                return Err(refuse(format!("has the shape {:?}, where {shape:?} belongs", tensor.shape)));
            }
            check_kind(tensor).map_err(refuse)?;
            if plan.ternary && is_linear(&tensor.name) && tensor.kind != TensorKind::Ternary {
                return Err(refuse(
                    "is not ternary, while other linears are: no format has a word for that".to_string(),
                ));
            }
        }
        if let Some(name) = missing.into_keys().min() {
            return Err(FormatError::MissingTensor { file: file.to_path_buf(), tensor: name });
        }
        match (model.config.tie_word_embeddings, plan.head) {
            (Some(true), true) => Err(FormatError::tensor(file, HEAD, "is given, while the head is the embedding")),
            (Some(false), false) => {
                Err(FormatError::MissingTensor { file: file.to_path_buf(), tensor: HEAD.to_string() })
            }
            _ => Ok(plan),
        }
    }

    /// Every tensor of the model with its shape, in the order of its layers.
    pub(super) fn tensors(self, config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
        let (hidden, mlp, head_dim) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (q, kv) = (config.num_heads * head_dim, config.num_kv_heads * head_dim);
        let linears = [
            ("self_attn.q_proj", q, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, q),
            ("mlp.gate_proj", mlp, hidden),
            ("mlp.up_proj", mlp, hidden),
            ("mlp.down_proj", hidden, mlp),
        ];
        let mut parts = vec![
            ("input_layernorm.weight".to_string(), vec![hidden]),
            ("post_attention_layernorm.weight".to_string(), vec![hidden]),
        ];
        if self.two_sided {
            parts.push(("pre_feedforward_layernorm.weight".to_string(), vec![hidden]));
            parts.push(("post_feedforward_layernorm.weight".to_string(), vec![hidden]));
        }
        for (linear, rows, cols) in linears {
            parts.push((format!("{linear}.weight"), vec![rows, cols]));
            if self.linear_norms {
                parts.push((format!("{linear}.norm.weight"), vec![cols]));
            }
        }
        if self.sub_norms {
            parts.push(("self_attn.attn_sub_norm.weight".to_string(), vec![q]));
            parts.push(("mlp.ffn_sub_norm.weight".to_string(), vec![mlp]));
        }
        if self.qk_norms {
            parts.push(("self_attn.q_norm.weight".to_string(), vec![head_dim]));
            parts.push(("self_attn.k_norm.weight".to_string(), vec![head_dim]));
        }
        let mut all = vec![(EMBEDDING.to_string(), vec![config.vocab_size, hidden])];
        for layer in 0..config.num_layers {
            all.extend(parts.iter().map(|(part, shape)| (format!("model.layers.{layer}.{part}"), shape.clone())));
        }
        all.push(("model.norm.weight".to_string(), vec![hidden]));
        if self.head {
            all.push((HEAD.to_string(), vec![config.vocab_size, hidden]));
        }
        all
    }
}

fn check_kind(tensor: &Tensor) -> Result<(), String> {
    match tensor.kind {
        TensorKind::Ternary if tensor.shape.len() != 2 => Err("is ternary and no matrix".to_string()),
        TensorKind::Ternary | TensorKind::Floats => Ok(()),
        TensorKind::Stored(dtype @ StorageType::Ternary(_)) => {
            Err(format!("is passed through as {dtype}: trits are given as a matrix"))
        }
        TensorKind::Stored(dtype) if !dtype.is_readable_as_float() => {
            Err(format!("is passed through as {dtype}, which no part of a model is"))
        }
        TensorKind::Stored(_) => Ok(()),
    }
}

/// Whether a tensor is a norm of the model itself, not the one before a linear: those to whose weights Gemma's classes add 1.
pub(crate) fn is_own_norm(name: &str) -> bool {
    name.ends_with("norm.weight") && !name.ends_with("_proj.norm.weight")
}

/// Whether a tensor is the weight of a linear, which BitNet has ternary.
pub(super) fn is_linear(name: &str) -> bool {
    name.ends_with("_proj.weight")
}
