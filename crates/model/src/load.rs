//! From a checkpoint to a model on a device.

use std::collections::HashSet;
use std::sync::Mutex;

use bitnet_format::{Checkpoint, FormatError, ModelConfig, PreparedFile, StorageType};
use bitnet_kernels::ops::Activations;
use bitnet_kernels::ops::training::Quantization;
use bitnet_ternary::{Granularity, quantize};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use rayon::prelude::*;

use crate::kept::HEAD_TILES;
use crate::rope::Ropes;
use crate::{Attention, BitLinear, Block, DenseMatrix, GatedMlp, ModelError, RmsNorm, Transformer, WeightBits};

/// A model and what its user should be told.
pub struct Loaded {
    /// The model, ready to run.
    pub model: Transformer,
    /// Tensors of the file that no layer uses.
    pub unused: Vec<String>,
}

/// Puts the decoder together from the tensors of `checkpoint`.
///
/// Linears are repacked once, layers in parallel, and the pages of the file that they came from are given back; embedding
/// and head stay mapped. Which optional parts there are (sub-norms, norms before linears, QK-norms, norms after attention and
/// MLP, a head of its own) is decided by which tensors exist.
///
/// # Errors
/// When a tensor is missing or wrong, or the file has parts that this decoder does not do (a bias).
pub fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Loaded, ModelError> {
    load_with_bits(checkpoint, WeightBits::default(), device)
}

/// [`load`] with so many bits for each weight.
///
/// # Errors
/// As [`load`], and when the device or the model does not go with them.
pub fn load_with_bits(checkpoint: &Checkpoint, bits: WeightBits, device: &Device) -> Result<Loaded, ModelError> {
    load_as(checkpoint, Weights::Packed(bits), None, device)
}

/// [`load_with_bits`] with the linears, and the copy of the head, that were kept in a file.
pub(crate) fn load_prepared(
    checkpoint: &Checkpoint,
    bits: WeightBits,
    prepared: &PreparedFile,
    device: &Device,
) -> Result<Loaded, ModelError> {
    load_as(checkpoint, Weights::Packed(bits), Some(prepared), device)
}

/// [`load`] for a model that is to be trained further: linears get latent weights that are quantized as `how` says,
/// embedding and head become floats, to be stored again as `storage`.
///
/// Float masters become the latent weights as they are. Weights that are trits already become latent weights of which the
/// quantizer makes the same trits and scales again: `trit * scale` divided by the share of non-zero trits, so that
/// the mean magnitude is the scale.
///
/// # Errors
/// As [`load`], and when the model has linears with float activations or other groups than `how` says.
pub fn load_trainable(
    checkpoint: &Checkpoint,
    how: Quantization,
    storage: FloatDType,
    device: &Device,
) -> Result<Loaded, ModelError> {
    load_as(checkpoint, Weights::Latent(how, storage), None, device)
}

fn load_as(
    checkpoint: &Checkpoint,
    weights: Weights,
    prepared: Option<&PreparedFile>,
    device: &Device,
) -> Result<Loaded, ModelError> {
    let loader = Loader { checkpoint, config: checkpoint.config(), weights, prepared, device, used: Mutex::default() };
    let model = loader.transformer()?;
    let used = loader.used.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let unused: Vec<String> = checkpoint.tensors().map(|t| t.name.clone()).filter(|n| !used.contains(n)).collect();
    if let Some(bias) = unused.iter().find(|name| name.ends_with(".bias")) {
        return Err(ModelError::Unsupported { what: format!("a bias ({bias})") });
    }
    Ok(Loaded { model, unused })
}

/// What becomes of the matrices.
#[derive(Clone, Copy)]
enum Weights {
    Packed(WeightBits),
    Latent(Quantization, FloatDType),
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a ModelConfig,
    weights: Weights,
    /// Linears that need no work any more.
    prepared: Option<&'a PreparedFile>,
    device: &'a Device,
    /// Names that were asked for; a tensor that nobody asks for would change the model if it were left out in silence.
    used: Mutex<HashSet<String>>,
}

impl Loader<'_> {
    /// Refuses weights that are larger than the device's memory (`found` bytes, if it is known) before anything is put
    /// there.
    fn check_memory(&self, has_head: bool, found: Option<u64>) -> Result<(), ModelError> {
        let Some(found) = found else { return Ok(()) };
        let needed = self.linear_bytes().saturating_add(self.dense_bytes(has_head));
        if needed > found { Err(ModelError::Memory { needed, found }) } else { Ok(()) }
    }

    /// Bytes of all ternary layers.
    fn linear_bytes(&self) -> u64 {
        let c = self.config;
        let bytes = |rows: usize, cols: usize| match self.weights {
            Weights::Packed(_) => (rows as u64).saturating_mul(4 * (cols as u64).div_ceil(16)),
            Weights::Latent(..) => (rows as u64).saturating_mul(4 * cols as u64),
        };
        let (heads, kv) = (c.num_heads.saturating_mul(c.head_dim), c.num_kv_heads.saturating_mul(c.head_dim));
        let attention = [bytes(heads, c.hidden_size), bytes(kv, c.hidden_size), bytes(kv, c.hidden_size)];
        let out = bytes(c.hidden_size, heads);
        let mlp = bytes(c.intermediate_size, c.hidden_size).saturating_mul(3);
        let layer = attention.into_iter().fold(out.saturating_add(mlp), u64::saturating_add);
        layer.saturating_mul(c.num_layers as u64)
    }

    /// Bytes of embedding and head as the file has them.
    fn dense_bytes(&self, has_head: bool) -> u64 {
        let names = std::iter::once("model.embed_tokens.weight").chain(has_head.then_some("lm_head.weight"));
        names.filter_map(|name| self.checkpoint.bytes(name).ok()).map(|bytes| bytes.len() as u64).sum()
    }

    fn transformer(&self) -> Result<Transformer, ModelError> {
        let config = self.config;
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        // Asked for once, the divisors of the angles are part of the configuration.
        self.has("rope_freqs.weight");
        let has_head = config.tie_word_embeddings != Some(true) && self.has("lm_head.weight");
        if !has_head && config.tie_word_embeddings == Some(false) {
            self.checkpoint.bytes("lm_head.weight")?;
        }
        self.check_memory(has_head, bitnet_kernels::memory(self.device))?;
        let blocks = (0..config.num_layers).into_par_iter().map(|i| self.block(i)).collect::<Result<_, _>>()?;
        Ok(Transformer {
            embedding: self.dense("model.embed_tokens.weight", vocab, hidden, !has_head)?,
            blocks,
            norm: self.norm("model.norm", hidden, config.rms_norm_eps)?,
            head: has_head.then(|| self.dense("lm_head.weight", vocab, hidden, true)).transpose()?,
            ropes: Ropes::new(config),
            config: config.clone(),
            device: self.device.clone(),
        })
    }

    fn block(&self, i: usize) -> Result<Block, ModelError> {
        let (config, eps) = (self.config, self.config.rms_norm_eps);
        let (hidden, inner, head_dim) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (heads, kv_heads) = (config.num_heads, config.num_kv_heads);
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let attention = Attention {
            q_proj: self.linear(&name("self_attn.q_proj"), heads * head_dim, hidden)?,
            k_proj: self.linear(&name("self_attn.k_proj"), kv_heads * head_dim, hidden)?,
            v_proj: self.linear(&name("self_attn.v_proj"), kv_heads * head_dim, hidden)?,
            o_proj: self.linear(&name("self_attn.o_proj"), hidden, heads * head_dim)?,
            sub_norm: self.optional_norm(&name("self_attn.attn_sub_norm"), heads * head_dim, eps)?,
            q_norm: self.optional_norm(&name("self_attn.q_norm"), head_dim, eps)?,
            k_norm: self.optional_norm(&name("self_attn.k_norm"), head_dim, eps)?,
            heads,
            kv_heads,
            head_dim,
            scale: config.attention_scale,
            window: config.sliding_window.as_ref().filter(|window| window.layers[i]).map(|window| window.size),
        };
        let mlp = GatedMlp {
            gate_proj: self.linear(&name("mlp.gate_proj"), inner, hidden)?,
            up_proj: self.linear(&name("mlp.up_proj"), inner, hidden)?,
            down_proj: self.linear(&name("mlp.down_proj"), hidden, inner)?,
            sub_norm: self.optional_norm(&name("mlp.ffn_sub_norm"), inner, eps)?,
            activation: config.activation,
        };
        // With norms on both sides, the one before the MLP has another name, and its usual one is that of the norm
        // after attention.
        let two_sided = self.has(&name("pre_feedforward_layernorm.weight"));
        let after = |part: &str| two_sided.then(|| self.norm(&name(part), hidden, eps)).transpose();
        let before_mlp = if two_sided { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        Ok(Block {
            attention_norm: self.norm(&name("input_layernorm"), hidden, eps)?,
            attention,
            attention_post_norm: after("post_attention_layernorm")?,
            mlp_norm: self.norm(&name(before_mlp), hidden, eps)?,
            mlp,
            mlp_post_norm: after("post_feedforward_layernorm")?,
        })
    }

    fn linear(&self, name: &str, rows: usize, cols: usize) -> Result<BitLinear, ModelError> {
        let linear = match self.weights {
            Weights::Packed(bits) => match self.prepared {
                Some(prepared) => {
                    BitLinear::kept(prepared.part(name)?, [rows, cols], bits, self.device).ok_or_else(|| {
                        let reason = format!("part {name} has another shape");
                        FormatError::Damaged { file: prepared.path().to_path_buf(), reason }
                    })?
                }
                None => BitLinear::with_bits(self.checkpoint.ternary(name, rows, cols)?, bits, self.device)?,
            },
            Weights::Latent(how, _) => BitLinear::latent(self.latent(name, rows, cols)?, how),
        };
        let weight = format!("{name}.weight");
        self.checkpoint.release(&weight);
        for part in [weight, format!("{name}.weight_scale"), format!("{name}.scale")] {
            self.has(&part);
        }
        // Not one of the model's own norms: nothing is added to its weight.
        let own = format!("{name}.norm.weight");
        let norm = self.has(&own).then(|| self.norm_weight(own, cols)).transpose()?;
        let norm = norm.map(|weight| RmsNorm::new(weight, self.config.linear_norm_eps, self.device));
        let activations = match self.config.activation_bits {
            Some(_) => Activations::Int8,
            None => Activations::Float,
        };
        Ok(linear.with_norm(norm).with_activations(activations))
    }

    /// Latent weights of a linear, `[rows, cols]`.
    fn latent(&self, name: &str, rows: usize, cols: usize) -> Result<Tensor<2>, ModelError> {
        let weight = format!("{name}.weight");
        let is_float = self.checkpoint.info(&weight).is_some_and(|info| {
            info.shape == [rows, cols] && matches!(info.dtype, StorageType::F32 | StorageType::F16 | StorageType::BF16)
        });
        let floats = if is_float { Some(self.checkpoint.floats(&weight)?) } else { None };
        let values = match floats.filter(|w| quantize::already_ternary(w, rows, cols).is_none()) {
            Some(masters) => masters,
            None => {
                let matrix = self.checkpoint.ternary(name, rows, cols)?;
                let mut values = matrix.to_f32();
                let parts = match matrix.granularity() {
                    Granularity::Tensor => values.len(),
                    Granularity::Row => cols,
                    Granularity::Group(size) => size,
                };
                // The parts that share a scale, none of which goes over the end of a row.
                for line in values.chunks_mut(cols.max(parts)) {
                    for part in line.chunks_mut(parts) {
                        let zeros = part.iter().filter(|x| **x == 0.0).count();
                        if zeros < part.len() {
                            let share = (part.len() - zeros) as f32 / part.len() as f32;
                            part.iter_mut().for_each(|x| *x /= share);
                        }
                    }
                }
                values
            }
        };
        Ok(Tensor::from_data(TensorData::new(values, [rows, cols]), (self.device, DType::F32)))
    }

    fn norm(&self, name: &str, width: usize, eps: f64) -> Result<RmsNorm, ModelError> {
        let mut weight = self.norm_weight(format!("{name}.weight"), width)?;
        if self.config.norm_offset != 0.0 {
            weight.iter_mut().for_each(|w| *w += self.config.norm_offset as f32);
        }
        Ok(RmsNorm::new(weight, eps, self.device))
    }

    /// The weight of a norm as it is stored.
    fn norm_weight(&self, name: String, width: usize) -> Result<Vec<f32>, ModelError> {
        let weight = self.checkpoint.floats(&name)?;
        self.has(&name);
        match weight.len() {
            found if found != width => Err(ModelError::Shape { name, found, needed: width }),
            _ => Ok(weight),
        }
    }

    fn optional_norm(&self, name: &str, width: usize, eps: f64) -> Result<Option<RmsNorm>, ModelError> {
        self.has(&format!("{name}.weight")).then(|| self.norm(name, width, eps)).transpose()
    }

    fn dense(&self, name: &str, rows: usize, cols: usize, is_head: bool) -> Result<DenseMatrix, ModelError> {
        self.has(name);
        match self.weights {
            Weights::Packed(_) if is_head => self.head(name, [rows, cols]),
            Weights::Packed(_) => DenseMatrix::load(self.checkpoint, name, rows, cols, self.device),
            Weights::Latent(_, storage) => {
                let stored = DenseMatrix::load(self.checkpoint, name, rows, cols, self.device)?;
                Ok(DenseMatrix::trained(stored.floats(), storage))
            }
        }
    }

    fn head(&self, name: &str, shape: [usize; 2]) -> Result<DenseMatrix, ModelError> {
        let prepared = self.prepared.filter(|prepared| prepared.has(HEAD_TILES));
        let tiles = prepared.map(|prepared| prepared.part(HEAD_TILES)).transpose()?;
        let head = DenseMatrix::load_head(self.checkpoint, name, shape, tiles, self.device)?;
        head.ok_or_else(|| {
            let file = prepared.map_or_else(Default::default, |prepared| prepared.path().to_path_buf());
            FormatError::Damaged { file, reason: format!("part {HEAD_TILES} has another size") }.into()
        })
    }

    /// Whether there is such a tensor, which then counts as used.
    fn has(&self, name: &str) -> bool {
        let there = self.checkpoint.info(name).is_some();
        if there {
            self.used.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(name.to_string());
        }
        there
    }
}
