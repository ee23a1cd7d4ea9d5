//! What shape of model a file holds, in one vocabulary for both containers.

mod burnpack;
mod checks;
mod gguf;
mod huggingface;
mod sliding;

use serde::{Deserialize, Serialize};

pub(crate) use burnpack::{from_burnpack, to_burnpack};
pub(crate) use gguf::{LINEAR_NORM_EPS, TensorFacts, architecture, from_gguf, has_interleaved_rope, token_id};
pub(crate) use huggingface::{from_hugging_face, has_head};

/// The model's hyperparameters.
///
/// Each field names the keys it is read from: those of Hugging Face's `config.json`, then those of GGUF, where `A` is the
/// file's architecture. A burnpack file has the fields themselves. Sizes are checked on reading: none is zero or absurd, heads
/// divide as attention needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// `architectures[0]`, or `general.architecture`, as the file spells it.
    pub architecture: String,
    /// Width of the residual stream. `hidden_size`; `A.embedding_length`.
    pub hidden_size: usize,
    /// Width inside the MLP. `intermediate_size`; `A.feed_forward_length`.
    pub intermediate_size: usize,
    /// Number of layers. `num_hidden_layers`; `A.block_count`.
    pub num_layers: usize,
    /// Number of query heads. `num_attention_heads`; `A.attention.head_count`.
    pub num_heads: usize,
    /// Number of key and value heads, a divisor of `num_heads`. `num_key_value_heads` (default: as many as query heads);
    /// `A.attention.head_count_kv`.
    pub num_kv_heads: usize,
    /// Width of one head. `head_dim`, `A.attention.key_length`; default `hidden_size / num_heads`.
    pub head_dim: usize,
    /// Rows of the embedding. `vocab_size`; `A.vocab_size`, else the length of `tokenizer.ggml.tokens`, else the embedding.
    pub vocab_size: usize,
    /// Positions the model was trained for. `max_position_embeddings`; `A.context_length`.
    pub context_length: usize,
    /// Base of the rotary angles. `rope_theta` or `rope_parameters.rope_theta`; `A.rope.freq_base`. Without the key: 500000
    /// for `BitNetForCausalLM`, else 10000.
    #[serde(with = "burnpack::exact")]
    pub rope_theta: f64,
    /// How many of a head's values are rotated. `head_dim · partial_rotary_factor`; `A.rope.dimension_count`.
    pub rope_dim: usize,
    /// Change of the rotary angles for longer contexts. `rope_scaling` or `rope_parameters`; `A.rope.scaling.*` or the
    /// tensor `rope_freqs.weight`.
    pub rope_scaling: RopeScaling,
    /// What attention scores are multiplied by. `query_pre_attn_scalar^(-1/2)`; `A.attention.scale`; without the key
    /// `head_dim^(-1/2)`.
    #[serde(with = "burnpack::exact")]
    pub attention_scale: f64,
    /// Layers that see only the positions near them, where there are any.
    pub sliding_window: Option<SlidingWindow>,
    /// What the rows of the embedding are multiplied by: `hidden_size^(1/2)` in Gemma 3, else 1. No key says it.
    #[serde(with = "burnpack::exact")]
    pub embedding_scale: f64,
    /// What is added to the stored weights of every norm, but for those that belong to a single linear: 1 in Hugging Face
    /// folders of Gemma 3 (its GGUF files have it added already), else 0. No key says it.
    #[serde(with = "burnpack::exact")]
    pub norm_offset: f64,
    /// Added to the mean square in every RMSNorm of the blocks. `rms_norm_eps`; `A.attention.layer_norm_rms_epsilon`.
    #[serde(with = "burnpack::exact")]
    pub rms_norm_eps: f64,
    /// The gate's function. `hidden_act`; for GGUF `A.hidden_activation`, else by rule: see [`Activation`].
    pub activation: Activation,
    /// Whether the head is the embedding. `tie_word_embeddings`; for GGUF, whether there is no `output.weight`. `None` when
    /// the file does not say: then the presence of `lm_head.weight` decides.
    pub tie_word_embeddings: Option<bool>,
    /// Tokens that begin a text. `bos_token_id` of `config.json` and `generation_config.json`;
    /// `tokenizer.ggml.bos_token_id`.
    pub bos_token_ids: Vec<u32>,
    /// Tokens that end a text. `eos_token_id` of both files, one id or a list; `tokenizer.ggml.eos_token_id` and
    /// `.eot_token_id`.
    pub eos_token_ids: Vec<u32>,
    /// What `<linear>.weight_scale` does. `quantization_config.linear_class`: `autobitlinear` multiplies, `bitlinear` (also
    /// the default) divides. A GGUF scale multiplies.
    pub weight_scale: ScaleDirection,
    /// Epsilon of the norm before a single linear, where there is one. `quantization_config.rms_norm_eps` (default 1e-6)
    /// of a quantized Hugging Face model, else `rms_norm_eps`; `A.linear_norm_rms_epsilon`, without the key that of the other
    /// norms.
    #[serde(with = "burnpack::exact")]
    pub linear_norm_eps: f64,
    /// Bits of a quantized activation: `Some(8)` for BitNet, `None` where the weights alone are ternary.
    ///
    /// `None` needs evidence: a Hugging Face folder that says nothing of BitNet (no `quantization_config`, no
    /// `is_bitnet_config`, no norms before linears) while its float weights are already ternary, as TriLM and
    /// Bonsai are published; or a GGUF whose linears are `Q2_0`, the weight-only type.
    pub activation_bits: Option<u8>,
}

/// Layers in which a position sees itself and so many before it, less one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlidingWindow {
    /// Positions that are seen. `sliding_window`; `A.attention.sliding_window`.
    pub size: usize,
    /// For each layer, whether it is such a layer. `layer_types`, or all but every so many-th of `sliding_window_pattern`;
    /// `A.attention.sliding_window_pattern`, a list or a number (6 without the key).
    pub layers: Vec<bool>,
    /// Base of the rotary angles in these layers, which have no [`RopeScaling`].
    /// `rope_parameters.sliding_attention.rope_theta` or `rope_local_base_freq`; `A.rope.freq_base_swa`; 10000 without the key.
    #[serde(with = "burnpack::exact")]
    pub rope_theta: f64,
}

/// Function of the MLP's gate.
///
/// GGUF files of BitNet do not have to say which. Without `A.hidden_activation`, architecture `bitnet` means SiLU;
/// `bitnet-25` and `bitnet-b1.58` mean squared ReLU, except with a SentencePiece vocabulary (`tokenizer.ggml.model` is
/// `llama`), which only the older SiLU models have; `gemma3` means GELU, every other architecture SiLU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// `max(0, x)²`; `relu2`.
    Relu2,
    /// `x · sigmoid(x)`; `silu`, `swish`.
    Silu,
    /// The tanh form of GELU; `gelu_pytorch_tanh`, `gelu_new`.
    GeluTanh,
}

impl Activation {
    /// From the name `config.json` or a GGUF uses.
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "relu2" => Some(Self::Relu2),
            "silu" | "swish" => Some(Self::Silu),
            "gelu_pytorch_tanh" | "gelu_new" => Some(Self::GeluTanh),
            _ => None,
        }
    }
}

/// What is done with a stored `weight_scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScaleDirection {
    /// The weight is `trit · scale`.
    Multiply,
    /// The weight is `trit / scale`.
    Divide,
}

/// Change of the rotary frequencies `theta^(-2i/d)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RopeScaling {
    /// As they are.
    None,
    /// Every angle divided by `factor`. `rope_type` `linear`.
    Linear {
        /// The divisor.
        #[serde(with = "burnpack::exact")]
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a smooth step between. `rope_type` `llama3`.
    Llama3 {
        /// The divisor of low frequencies.
        #[serde(with = "burnpack::exact")]
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are low frequencies.
        #[serde(with = "burnpack::exact")]
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are high frequencies.
        #[serde(with = "burnpack::exact")]
        high_freq_factor: f64,
        /// Positions of the unscaled model.
        original_context: usize,
    },
    /// One divisor for each of the `rope_dim / 2` frequencies: the tensor `rope_freqs.weight` of a GGUF.
    Factors(Vec<f32>),
}
