//! A model with fresh random weights, to be trained.

use bitnet_format::{Activation, ModelConfig};
use bitnet_kernels::ops::training::Quantization;
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Normal};

use crate::rope::Ropes;
use crate::{Attention, BitLinear, Block, DenseMatrix, GatedMlp, ModelError, RmsNorm, Transformer};

/// What a model to be trained begins as.
#[derive(Clone, Debug)]
pub struct Initialize {
    /// Sizes, activation, whether the head is the embedding.
    pub config: ModelConfig,
    /// Whether there is an RMSNorm before `o_proj` and one before `down_proj`, as in BitNet b1.58 2B-4T.
    pub sub_norms: bool,
    /// Whether every linear has an RMSNorm of its own before its quantizer, besides those of the block.
    ///
    /// Source: Ma et al., "The Era of 1-bit LLMs: Training Tips, Code and FAQ", figure 3.
    pub inner_norms: bool,
    /// How the linears compute.
    pub quantization: Quantization,
    /// What embedding and head are to be stored in, see [`DenseMatrix::trained`].
    pub storage: FloatDType,
    /// Standard deviation of the linears' weights. The projections back to the residual stream (`o_proj`, `down_proj`) have
    /// it divided by the root of twice the number of layers.
    pub linear_std: f64,
    /// Standard deviation of the embedding's weights, and of the head's.
    pub embedding_std: f64,
    /// Chooses the weights: the same on every device.
    pub seed: u64,
}

impl Initialize {
    /// The model on a device.
    ///
    /// # Errors
    /// When the configuration has parts that are not trained: GELU, sliding windows.
    pub fn on(&self, device: &Device) -> Result<Transformer, ModelError> {
        let config = &self.config;
        if config.activation == Activation::GeluTanh || config.sliding_window.is_some() {
            let what = "training a model with GELU or sliding windows from the beginning".to_string();
            return Err(ModelError::Unsupported { what });
        }
        let mut random = Random { how: self, device, stream: 0 };
        let (hidden, inner, head_dim) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (heads, kv_heads) = (config.num_heads, config.num_kv_heads);
        let norm = |width: usize| RmsNorm::new(vec![1.0; width], config.rms_norm_eps, device);
        let sub_norm = |width: usize| self.sub_norms.then(|| norm(width));
        let back = self.linear_std / (2.0 * config.num_layers as f64).sqrt();
        let tied = config.tie_word_embeddings != Some(false);
        let embedding = random.dense(config.vocab_size, hidden);
        let blocks = (0..config.num_layers).map(|_| Block {
            attention_norm: norm(hidden),
            attention: Attention {
                q_proj: random.linear(heads * head_dim, hidden, self.linear_std),
                k_proj: random.linear(kv_heads * head_dim, hidden, self.linear_std),
                v_proj: random.linear(kv_heads * head_dim, hidden, self.linear_std),
                o_proj: random.linear(hidden, heads * head_dim, back),
                sub_norm: sub_norm(heads * head_dim),
                q_norm: None,
                k_norm: None,
                heads,
                kv_heads,
                head_dim,
                scale: config.attention_scale,
                window: None,
            },
            attention_post_norm: None,
            mlp_norm: norm(hidden),
            mlp: GatedMlp {
                gate_proj: random.linear(inner, hidden, self.linear_std),
                up_proj: random.linear(inner, hidden, self.linear_std),
                down_proj: random.linear(hidden, inner, back),
                sub_norm: sub_norm(inner),
                activation: config.activation,
            },
            mlp_post_norm: None,
        });
        let blocks = blocks.collect();
        Ok(Transformer {
            embedding,
            blocks,
            norm: norm(hidden),
            head: (!tied).then(|| random.dense(config.vocab_size, hidden)),
            ropes: Ropes::new(config),
            config: ModelConfig { tie_word_embeddings: Some(tied), ..config.clone() },
            device: device.clone(),
        })
    }
}

/// Matrices one after the other, each from a stream of numbers of its own.
struct Random<'a> {
    how: &'a Initialize,
    device: &'a Device,
    stream: u64,
}

impl Random<'_> {
    fn matrix(&mut self, rows: usize, cols: usize, std: f64) -> Tensor<2> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.how.seed);
        rng.set_stream(self.stream);
        self.stream += 1;
        let normal = Normal::new(0.0, std).unwrap_or(Normal::new(0.0, 0.0).expect("zero is a deviation"));
        let values: Vec<f32> = normal.sample_iter(rng).take(rows * cols).map(|x| x as f32).collect();
        Tensor::from_data(TensorData::new(values, [rows, cols]), (self.device, DType::F32))
    }

    fn linear(&mut self, rows: usize, cols: usize, std: f64) -> BitLinear {
        let norm = || RmsNorm::new(vec![1.0; cols], self.how.config.linear_norm_eps, self.device);
        let norm = self.how.inner_norms.then(norm);
        BitLinear::latent(self.matrix(rows, cols, std), self.how.quantization).with_norm(norm)
    }

    fn dense(&mut self, rows: usize, cols: usize) -> DenseMatrix {
        DenseMatrix::trained(self.matrix(rows, cols, self.how.embedding_std), self.how.storage)
    }
}
