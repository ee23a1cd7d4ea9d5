//! The decoder of every ternary family.

use bitnet_format::ModelConfig;
use bitnet_kernels::cpu::top::{TopLogits, Wanted};
use bitnet_kernels::{CacheFormat, Precision, RowStorage};
use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::cache::{CacheSize, LayerCache, Places, Room};
use crate::rope::{Positions, Ropes};
use crate::{BitLinear, Block, DenseMatrix, KvCache, ModelError, RmsNorm};

/// A decoder-only transformer with ternary linears.
///
/// What it does (sub-norms or none, squared ReLU or SiLU, a norm before each linear, QK-norm, tied head or not) follows
/// from its configuration and from the tensors that were there; see [`crate::load`]. It holds no state: a session keeps its
/// own [`KvCache`]. The model in training is the same one with latent weights, see [`crate::Initialize`].
#[derive(Module, Debug)]
pub struct Transformer {
    pub(crate) embedding: DenseMatrix,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: RmsNorm,
    /// `None` when the embedding is the head.
    pub(crate) head: Option<DenseMatrix>,
    #[module(skip)]
    pub(crate) ropes: Ropes,
    #[module(skip)]
    pub(crate) config: ModelConfig,
    #[module(skip)]
    pub(crate) device: Device,
}

/// What the tokens of a call see besides themselves.
pub(crate) enum Context<'a> {
    /// Those that a cache holds, before them.
    Cached {
        /// For all positions of the cache.
        positions: &'a Positions,
        /// Of the tokens in it.
        places: &'a Places,
        /// Of this layer.
        cache: &'a mut LayerCache,
    },
    /// Nothing: they are whole sequences, one after the other.
    Sequences {
        /// For the positions of the tokens.
        positions: &'a Positions,
        /// Of the sequences.
        lengths: &'a [usize],
    },
}

/// Sequences that lie one after the other, none of which sees another.
#[derive(Clone, Debug)]
pub struct Sequences {
    lengths: Vec<usize>,
    positions: Positions,
}

impl Sequences {
    /// How long each one is.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The angles of the positions, and the lengths.
    pub(crate) fn parts(&self) -> (&Positions, &[usize]) {
        (&self.positions, &self.lengths)
    }
}

impl Transformer {
    /// The model's hyperparameters.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The model with packed weights, without gradients: what it computed, it still computes to the bit.
    ///
    /// # Errors
    /// When a latent weight is NaN or infinite, or a linear is a float layer.
    pub fn pack(&self) -> Result<Self, ModelError> {
        let mut packed = self.without_gradients();
        for linear in packed.linears_mut() {
            *linear = linear.pack()?;
        }
        Ok(packed)
    }

    /// The same model without gradients, its weights as they are.
    pub fn without_gradients(&self) -> Self {
        let mut plain = self.valid();
        plain.device = self.device.clone().inner();
        plain
    }

    /// A copy on another device, with the ids of these parameters; those that have gradients here have them there.
    pub fn copy_on(&self, device: &Device) -> Self {
        let mut copy = self.clone().fork(device);
        copy.device = device.clone();
        copy
    }

    /// An empty cache for at most `limit` tokens, and never more than [`Transformer::cache_limit`].
    pub fn cache(&self, limit: usize, format: CacheFormat) -> KvCache {
        self.cache_of(1, limit, format)
    }

    /// An empty cache for `slots` sequences, each of at most `limit` tokens, and never more than
    /// [`Transformer::cache_limit`].
    pub fn cache_of(&self, slots: usize, limit: usize, format: CacheFormat) -> KvCache {
        let ModelConfig { num_kv_heads: kv_heads, head_dim, .. } = self.config;
        let limit = limit.min(self.cache_limit());
        let size = CacheSize { layers: self.blocks.len(), slots, kv_heads, head_dim, limit, format };
        let tensor = match bitnet_kernels::row_storage(&self.device) {
            RowStorage::Words { max_bytes, .. } => max_bytes,
            RowStorage::Bytes => usize::MAX,
        };
        let room = Room { weights: self.bytes(), device: bitnet_kernels::memory(&self.device), tensor };
        KvCache::new(size, &self.ropes, room, &self.device)
    }

    /// Bytes of the weights, norms left out.
    pub fn bytes(&self) -> u64 {
        let linears: usize = self.linears().map(|(_, linear)| linear.weight_bytes()).sum();
        let dense: usize = self.dense().map(|(_, matrix)| matrix.bytes()).sum();
        (linears + dense) as u64
    }

    /// The most tokens that a cache can have: the model's context, or a sliding window if some layer has one, since layers
    /// of a cache forget nothing. Whole sequences without a cache ([`Transformer::hidden_of`]) can be longer.
    pub fn cache_limit(&self) -> usize {
        let window = self.config.sliding_window.as_ref().map_or(usize::MAX, |window| window.size);
        self.config.context_length.min(window)
    }

    /// Runs `tokens` after those in `cache`, which has one slot, and gives their hidden states, `[tokens, hidden]`, not yet
    /// normalized.
    ///
    /// # Errors
    /// When they do not fit the cache, or one is outside the vocabulary; the cache has not changed then.
    pub fn hidden(&self, tokens: &[u32], cache: &mut KvCache) -> Result<Tensor<2>, ModelError> {
        self.hidden_of_slots(&[(0, tokens)], cache)
    }

    /// Runs, in one step, tokens of several sequences after those that the cache has of each: `parts` are slots, each at
    /// most once, with their tokens. Gives their hidden states one part after the other, `[tokens, hidden]`, not yet
    /// normalized.
    ///
    /// # Errors
    /// As [`Transformer::hidden`].
    ///
    /// # Panics
    /// When the cache does not have such a slot.
    pub fn hidden_of_slots(&self, parts: &[(usize, &[u32])], cache: &mut KvCache) -> Result<Tensor<2>, ModelError> {
        let ids: Vec<u32> = parts.iter().flat_map(|(_, tokens)| tokens.iter().copied()).collect();
        let ids = self.ids(&ids)?;
        let lengths = parts.iter().map(|(slot, tokens)| (*slot, tokens.len()));
        let places = cache.reserve(lengths.clone(), &self.device)?;
        cache.change();
        let hidden = self.hidden_at(ids, &places, cache);
        cache.advance(lengths);
        Ok(hidden)
    }

    /// [`Transformer::hidden_of_slots`] for tokens and places that are on the device already.
    pub(crate) fn hidden_at(&self, ids: Tensor<1, Int>, places: &Places, cache: &mut KvCache) -> Tensor<2> {
        let mut h = self.embed(ids);
        let (positions, layers) = cache.parts();
        for (block, cache) in self.blocks.iter().zip(layers) {
            h = block.forward(h, Context::Cached { positions, places, cache });
        }
        h
    }

    /// What [`Transformer::hidden_of`] needs to know of sequences with these lengths.
    pub fn sequences(&self, lengths: &[usize]) -> Sequences {
        let positions = self.ropes.of_sequences(lengths, &self.device);
        Sequences { lengths: lengths.to_vec(), positions }
    }

    /// Hidden states of whole sequences without a cache, `[tokens, hidden]`, not yet normalized. `tokens` are those of
    /// all `sequences`, one after the other; each sequence begins at position zero and sees only itself.
    ///
    /// # Panics
    /// When a token has no row in the embedding (see [`Transformer::check_tokens`]), or the lengths are others.
    pub fn hidden_of(&self, tokens: Tensor<1, Int>, sequences: &Sequences) -> Tensor<2> {
        self.blocks.iter().fold(self.embed(tokens), |h, block| Self::block(block, h, sequences))
    }

    /// The embeddings that the first block reads, `[tokens, hidden]`.
    ///
    /// # Panics
    /// When a token has no row in the embedding.
    pub fn embed(&self, tokens: Tensor<1, Int>) -> Tensor<2> {
        let rows = self.embedding.select(tokens);
        match self.config.embedding_scale {
            1.0 => rows,
            scale => rows * scale,
        }
    }

    /// One block of [`Transformer::hidden_of`].
    ///
    /// # Panics
    /// When there is no such block.
    pub fn run_block(&self, index: usize, h: Tensor<2>, sequences: &Sequences) -> Tensor<2> {
        Self::block(&self.blocks[index], h, sequences)
    }

    /// Queries, keys and values that a block makes of its input, `[tokens, heads, head_dim]`, not yet rotated.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn attention_states(&self, index: usize, h: Tensor<2>) -> [Tensor<3>; 3] {
        let block = &self.blocks[index];
        block.attention.states(h, &block.attention_norm).map(|x| x.squeeze_dim::<3>(0))
    }

    fn block(block: &Block, h: Tensor<2>, Sequences { lengths, positions }: &Sequences) -> Tensor<2> {
        block.forward(h, Context::Sequences { positions, lengths })
    }

    /// Hidden states after the last norm, `[tokens, hidden]`: what the head reads, and what an embedding model pools.
    pub fn normed(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.norm.forward(hidden)
    }

    /// Logits of hidden states: `[tokens, hidden] → [tokens, vocab_size]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.head().forward(self.normed(hidden))
    }

    /// The logits that are wanted of one hidden state, `[1, hidden]`; see [`DenseMatrix::top`].
    pub fn top_logits(&self, hidden: Tensor<2>, wanted: &Wanted) -> Option<TopLogits> {
        self.head().top(self.normed(hidden), wanted)
    }

    /// What makes logits of hidden states: a matrix of its own, or the embedding.
    pub fn head(&self) -> &DenseMatrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Logits of whole sequences without a cache: `tokens` `[batch, tokens]` `→ [batch, tokens, vocab_size]`.
    ///
    /// # Panics
    /// When a token has no row in the embedding (see [`Transformer::check_tokens`]).
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let [batch, length] = tokens.dims();
        let sequences = self.sequences(&vec![length; batch]);
        let hidden = self.hidden_of(tokens.reshape([batch * length]), &sequences);
        self.logits(hidden).reshape([batch, length, self.config.vocab_size])
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

    /// The ternary layers in the order of the model, with their Hugging Face names (`model.layers.0.self_attn.q_proj`).
    pub fn linears(&self) -> impl Iterator<Item = (String, &BitLinear)> {
        self.blocks.iter().enumerate().flat_map(|(i, block)| {
            let attention =
                block.attention.linears().map(|(name, l)| (format!("model.layers.{i}.self_attn.{name}"), l));
            let mlp = block.mlp.linears().map(|(name, linear)| (format!("model.layers.{i}.mlp.{name}"), linear));
            attention.into_iter().chain(mlp)
        })
    }

    /// The same layers, to be changed.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut BitLinear> {
        let blocks = self.blocks.iter_mut();
        blocks.flat_map(|block| block.attention.linears_mut().into_iter().chain(block.mlp.linears_mut()))
    }

    /// The norms that are not part of a linear, with their Hugging Face names (`model.layers.0.input_layernorm`).
    pub fn norms(&self) -> impl Iterator<Item = (String, &RmsNorm)> {
        let blocks = self.blocks.iter().enumerate().flat_map(|(i, block)| {
            let name = move |name: &str| format!("model.layers.{i}.{name}");
            let outer = block.norms().map(move |(n, norm)| (name(n), norm));
            let attention = block.attention.norms().map(move |(n, norm)| (name(&format!("self_attn.{n}")), norm));
            let mlp = block.mlp.norms().map(move |(n, norm)| (name(&format!("mlp.{n}")), norm));
            outer.chain(attention).chain(mlp)
        });
        blocks.chain([("model.norm".to_string(), &self.norm)])
    }

    /// The embedding, and the head if it has weights of its own, with the names of their tensors.
    pub fn dense(&self) -> impl Iterator<Item = (&'static str, &DenseMatrix)> {
        let head = self.head.iter().map(|head| ("lm_head.weight", head));
        std::iter::once(("model.embed_tokens.weight", &self.embedding)).chain(head)
    }

    /// What the float products of the linears in training take their operands in, see [`crate::Precision`].
    pub fn set_precision(&mut self, precision: Precision) {
        self.linears_mut().filter_map(BitLinear::latent_weights_mut).for_each(|w| w.set_precision(precision));
    }

    /// How far the linears in training are quantized, see [`crate::Quantization`].
    pub fn set_lambda(&mut self, lambda: f32) {
        self.linears_mut().filter_map(BitLinear::latent_weights_mut).for_each(|weight| weight.set_lambda(lambda));
    }
}
