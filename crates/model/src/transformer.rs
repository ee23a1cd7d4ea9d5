//! The decoder of every ternary family.

use bitnet_format::ModelConfig;
use bitnet_kernels::CacheFormat;
use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{Block, DenseMatrix, KvCache, ModelError, RmsNorm, Rope};

/// A decoder-only transformer with ternary linears.
///
/// What it does (sub-norms or none, squared ReLU or SiLU, a norm before each linear, QK-norm, tied head or not) follows
/// from its configuration and from the tensors that were there; see [`crate::load`]. It holds no state: a session keeps its
/// own [`KvCache`].
#[derive(Module, Debug)]
pub struct Transformer {
    pub(crate) embedding: DenseMatrix,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: RmsNorm,
    /// `None` when the embedding is the head.
    pub(crate) head: Option<DenseMatrix>,
    #[module(skip)]
    pub(crate) rope: Rope,
    #[module(skip)]
    pub(crate) config: ModelConfig,
    #[module(skip)]
    pub(crate) device: Device,
}

impl Transformer {
    /// The model's hyperparameters.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// An empty cache for at most `limit` tokens, and never more than the model's context.
    pub fn cache(&self, limit: usize, format: CacheFormat) -> KvCache {
        let ModelConfig { num_kv_heads, head_dim, context_length, .. } = self.config;
        KvCache::new(self.blocks.len(), num_kv_heads, head_dim, limit.min(context_length), format, &self.device)
    }

    /// Runs `tokens` after those in `cache` and gives their hidden states, `[tokens, hidden]`, not yet normalized.
    ///
    /// # Errors
    /// When they do not fit the cache, or one is outside the vocabulary; the cache has not changed then.
    pub fn hidden(&self, tokens: &[u32], cache: &mut KvCache) -> Result<Tensor<2>, ModelError> {
        let ids = self.ids(tokens)?;
        cache.reserve(tokens.len())?;
        let rope = self.rope.tables(cache.len(), tokens.len(), &self.device);
        let mut h = self.embedding.select(ids).unsqueeze::<3>();
        for (block, cache) in self.blocks.iter().zip(cache.layers()) {
            h = block.forward(h, &rope, Some(cache));
        }
        Ok(h.squeeze_dim::<2>(0))
    }

    /// Logits of hidden states: `[tokens, hidden] → [tokens, vocab_size]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.head.as_ref().unwrap_or(&self.embedding).forward(self.norm.forward(hidden))
    }

    /// Logits of whole sequences without a cache: `tokens` `[batch, tokens]` `→ [batch, tokens, vocab_size]`.
    ///
    /// # Panics
    /// When a token has no row in the embedding (see [`Transformer::check_tokens`]).
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let [batch, length] = tokens.dims();
        let rope = self.rope.tables(0, length, &self.device);
        let h = self.embedding.select(tokens.reshape([batch * length]));
        let h = h.reshape([batch, length, self.config.hidden_size]);
        let h = self.blocks.iter().fold(h, |h, block| block.forward(h, &rope, None));
        let logits = self.logits(h.reshape([batch * length, self.config.hidden_size]));
        logits.reshape([batch, length, self.config.vocab_size])
    }

    /// Checks that the embedding has a row for every token.
    ///
    /// # Errors
    /// When it does not; the error names the token.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<(), ModelError> {
        let vocab_size = self.embedding.rows();
        match tokens.iter().find(|token| **token as usize >= vocab_size) {
            Some(token) => Err(ModelError::TokenOutOfRange { token: *token, vocab_size }),
            None => Ok(()),
        }
    }

    fn ids(&self, tokens: &[u32]) -> Result<Tensor<1, Int>, ModelError> {
        self.check_tokens(tokens)?;
        let ids: Vec<i64> = tokens.iter().map(|token| i64::from(*token)).collect();
        Ok(Tensor::from_data(TensorData::new(ids, [tokens.len()]), &self.device))
    }
}
