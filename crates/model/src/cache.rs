//! The KV cache, which belongs to a session and never to the model.

use burn::tensor::{DType, Device, Tensor};

use crate::ModelError;

/// Positions that a new cache has room for, unless its limit is lower.
const FIRST_CAPACITY: usize = 64;

/// Keys and values of the tokens that a session has seen, for every layer.
///
/// It grows by doubling up to its limit. A clone is a fork: both share their memory until one of them goes on.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    limit: usize,
}

/// Keys and values of one layer, `[batch, kv_heads, capacity, head_dim]` each, the first `len` positions in use.
#[derive(Clone, Debug)]
pub(crate) struct LayerCache {
    /// `None` only while [`LayerCache::append`] writes.
    tensors: Option<(Tensor<4>, Tensor<4>)>,
    len: usize,
}

impl KvCache {
    pub(crate) fn new(layers: usize, kv_heads: usize, head_dim: usize, limit: usize, device: &Device) -> Self {
        let capacity = FIRST_CAPACITY.min(limit);
        let zeros = || Tensor::zeros([1, kv_heads, capacity, head_dim], (device, DType::F32));
        let layer = || LayerCache { tensors: Some((zeros(), zeros())), len: 0 };
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

    /// Bytes of its keys and values, used or not.
    pub fn bytes(&self) -> usize {
        let values = self.layers.iter().map(|layer| 2 * layer.shape().iter().product::<usize>());
        values.sum::<usize>() * size_of::<f32>()
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
        let limit = self.limit;
        self.layers.iter_mut().for_each(|layer| layer.grow(needed, limit));
        Ok(())
    }

    pub(crate) fn layers(&mut self) -> impl Iterator<Item = &mut LayerCache> {
        self.layers.iter_mut()
    }
}

impl LayerCache {
    fn shape(&self) -> [usize; 4] {
        self.tensors.as_ref().map_or([0; 4], |(k, _)| k.dims())
    }

    fn grow(&mut self, needed: usize, limit: usize) {
        let [batch, heads, capacity, head_dim] = self.shape();
        if needed <= capacity {
            return;
        }
        let wider = needed.max((2 * capacity).min(limit));
        let used = [0..batch, 0..heads, 0..self.len, 0..head_dim];
        let grow = |old: Tensor<4>| {
            let new = Tensor::zeros([batch, heads, wider, head_dim], (&old.device(), DType::F32));
            if self.len == 0 { new } else { new.slice_assign(used.clone(), old.slice(used.clone())) }
        };
        self.tensors = self.tensors.take().map(|(k, v)| (grow(k), grow(v)));
    }

    /// Writes `k` and `v` (`[batch, kv_heads, tokens, head_dim]`) after the last position and gives the whole cache back,
    /// with the position of the first new token. What it gives must be dropped before the next call, or that one copies.
    pub(crate) fn append(&mut self, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>, usize) {
        let [batch, heads, tokens, head_dim] = k.dims();
        let start = self.len;
        let place = [0..batch, 0..heads, start..start + tokens, 0..head_dim];
        let (old_k, old_v) = self.tensors.take().expect("a cache that is not being written has its tensors");
        let (k, v) = (old_k.slice_assign(place.clone(), k), old_v.slice_assign(place, v));
        self.tensors = Some((k.clone(), v.clone()));
        self.len += tokens;
        (k, v, start)
    }
}
