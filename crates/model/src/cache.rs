//! The KV cache, which belongs to a session and never to the model.

use bitnet_kernels::CacheFormat;
use bitnet_kernels::cpu::kv_cache::BLOCK;
use bitnet_kernels::ops::{self, CacheSpec};
use burn::tensor::{DType, Device, Int, Tensor};

use crate::ModelError;
use crate::rope::RopeTables;

/// Blocks of 16 positions that a new cache has room for, unless its limit is lower.
const FIRST_BLOCKS: usize = 4;

/// Keys and values of the tokens that a session has seen, for every layer.
///
/// It grows by doubling up to its limit. A clone is a fork: both share their memory until one of them goes on.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    limit: usize,
}

/// Keys and values of one layer, of which the first `len` positions are in use.
#[derive(Clone, Debug)]
pub(crate) struct LayerCache {
    /// U32 `[batch, kv_heads, blocks, words]` each. `None` only while [`LayerCache::attend`] writes.
    sides: Option<[Tensor<4, Int>; 2]>,
    format: CacheFormat,
    len: usize,
}

impl KvCache {
    pub(crate) fn new(
        layers: usize,
        kv_heads: usize,
        head_dim: usize,
        limit: usize,
        format: CacheFormat,
        device: &Device,
    ) -> Self {
        let blocks = FIRST_BLOCKS.min(limit.div_ceil(BLOCK));
        let zeros = || Tensor::zeros([1, kv_heads, blocks, format.block_words(head_dim)], (device, DType::U32));
        let layer = || LayerCache { sides: Some([zeros(), zeros()]), format, len: 0 };
        Self { layers: std::iter::repeat_with(layer).take(layers).collect(), limit }
    }

    /// Tokens it holds.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.len)
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most tokens it may hold.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How it stores its values.
    pub fn format(&self) -> CacheFormat {
        self.layers.first().map_or_else(CacheFormat::default, |layer| layer.format)
    }

    /// Bytes of its keys and values, used or not.
    pub fn bytes(&self) -> usize {
        let words = self.layers.iter().map(|layer| 2 * layer.shape().iter().product::<usize>());
        words.sum::<usize>() * size_of::<u32>()
    }

    /// Forgets all tokens from position `len` on; nothing happens when it holds fewer.
    pub fn truncate(&mut self, len: usize) {
        for layer in &mut self.layers {
            layer.len = layer.len.min(len);
        }
    }

    /// Makes room for `tokens` more.
    ///
    /// # Errors
    /// When they would go beyond the limit; nothing has changed then.
    pub(crate) fn reserve(&mut self, tokens: usize) -> Result<(), ModelError> {
        let needed = self
            .len()
            .checked_add(tokens)
            .filter(|needed| *needed <= self.limit)
            .ok_or(ModelError::ContextFull { limit: self.limit, needed: self.len().saturating_add(tokens) })?;
        let limit = self.limit.div_ceil(BLOCK);
        self.layers.iter_mut().for_each(|layer| layer.grow(needed.div_ceil(BLOCK), limit));
        Ok(())
    }

    pub(crate) fn layers(&mut self) -> impl Iterator<Item = &mut LayerCache> {
        self.layers.iter_mut()
    }
}

impl LayerCache {
    fn shape(&self) -> [usize; 4] {
        self.sides.as_ref().map_or([0; 4], |[keys, _]| keys.dims())
    }

    fn grow(&mut self, needed: usize, limit: usize) {
        let [batch, heads, blocks, words] = self.shape();
        if needed <= blocks {
            return;
        }
        let wider = needed.max((2 * blocks).min(limit));
        let used = [0..batch, 0..heads, 0..self.len.div_ceil(BLOCK), 0..words];
        let grow = |old: Tensor<4, Int>| {
            let new = Tensor::zeros([batch, heads, wider, words], (&old.device(), DType::U32));
            if self.len == 0 { new } else { new.slice_assign(used.clone(), old.slice(used.clone())) }
        };
        self.sides = self.sides.take().map(|sides| sides.map(grow));
    }

    /// Writes `k` and `v` (`[batch, tokens, kv_heads, head_dim]`) after the last position and gives the attention of `q`
    /// (`[batch, tokens, heads, head_dim]`) over all.
    pub(crate) fn attend(&mut self, [q, k, v]: [Tensor<4>; 3], rope: &RopeTables, scale: f64) -> Tensor<4> {
        let tokens = q.dims()[1];
        let sides = self.sides.take().expect("a cache that is not being written has its tensors");
        let spec = CacheSpec { format: self.format, start: self.len, scale };
        let (out, sides) = ops::cached_attention([q, k, v], rope.parts(), sides, spec);
        self.sides = Some(sides);
        self.len += tokens;
        out
    }
}
