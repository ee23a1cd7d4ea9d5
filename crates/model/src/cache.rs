//! The KV cache, which belongs to a session and never to the model.

use bitnet_kernels::CacheFormat;
use bitnet_kernels::cpu::kv_cache::BLOCK;
use bitnet_kernels::ops::{self, CacheSpec};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::ModelError;
use crate::next::Steps;
use crate::rope::{Positions, RopeTables, Ropes};

/// Blocks of 16 positions that a cache has room for at first, unless its limit is lower.
const FIRST_BLOCKS: usize = 4;

/// Keys and values of the tokens that some sequences have, for every layer. Each sequence has a slot and a length of its own;
/// a session has a cache of one slot.
///
/// It takes memory with its first tokens and grows by doubling up to its limit. A clone is a fork: both share their memory until
/// one of them goes on.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    /// Of the positions that there is room for.
    positions: Positions,
    ropes: Ropes,
    lens: Vec<usize>,
    size: CacheSize,
    room: Room,
    steps: Steps,
}

/// What a device has for a model and its cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Bytes of the weights.
    pub weights: u64,
    /// Bytes of the device, where they are known.
    pub device: Option<u64>,
    /// The most bytes that its kernels can be given in one tensor.
    pub tensor: usize,
}

/// Sizes of a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheSize {
    pub layers: usize,
    pub slots: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Positions of a slot, at most.
    pub limit: usize,
    pub format: CacheFormat,
}

/// Keys and values of one layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerCache {
    /// U32 `[slots, kv_heads, blocks, words]` each. `None` before there are tokens, and while [`LayerCache::attend`] writes.
    sides: Option<[Tensor<4, Int>; 2]>,
    size: CacheSize,
}

/// Where the tokens of a call belong in a cache.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// U32 `[tokens, 2]`: slot and position.
    pub tensor: Tensor<2, Int>,
    /// Tokens of one sequence that stand together, see [`CacheSpec::run`].
    pub run: usize,
}

impl KvCache {
    pub(crate) fn new(size: CacheSize, ropes: &Ropes, room: Room, device: &Device) -> Self {
        let layer = LayerCache { sides: None, size };
        Self {
            layers: vec![layer; size.layers],
            positions: ropes.positions(size.first_blocks() * BLOCK, device),
            ropes: ropes.clone(),
            lens: vec![0; size.slots],
            size,
            room,
            steps: Steps::default(),
        }
    }

    /// Tokens that its longest sequence has.
    pub fn len(&self) -> usize {
        self.lens.iter().copied().max().unwrap_or(0)
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of each sequence.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// The most tokens that a sequence may have.
    pub fn limit(&self) -> usize {
        self.size.limit
    }

    /// How it stores its values.
    pub fn format(&self) -> CacheFormat {
        self.size.format
    }

    /// Bytes of its keys and values, used or not.
    pub fn bytes(&self) -> usize {
        self.size.bytes_of_block() * self.blocks()
    }

    /// Whether a step of [`crate::Transformer::next`] is recorded, which the next one of its shape replays.
    pub fn is_recorded(&self) -> bool {
        self.steps.is_recorded()
    }

    /// Forgets all tokens from position `len` on, of every sequence; nothing happens to those that have fewer.
    pub fn truncate(&mut self, len: usize) {
        self.lens.iter_mut().for_each(|own| *own = (*own).min(len));
    }

    /// Forgets all tokens of one sequence.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn clear(&mut self, slot: usize) {
        self.lens[slot] = 0;
    }

    /// Makes room for so many tokens more in each of some slots, and says where they go, slot after slot.
    ///
    /// # Errors
    /// When they would go beyond the limit or what the device can hold; nothing has changed then.
    pub(crate) fn reserve(
        &mut self,
        parts: impl Iterator<Item = (usize, usize)> + Clone,
        device: &Device,
    ) -> Result<Places, ModelError> {
        let mut most = 0;
        for (slot, tokens) in parts.clone() {
            let len = self.lens[slot];
            let needed = len.checked_add(tokens).filter(|needed| *needed <= self.size.limit);
            most = most.max(
                needed.ok_or(ModelError::ContextFull { limit: self.size.limit, needed: len.saturating_add(tokens) })?,
            );
        }
        self.grow(most.div_ceil(BLOCK), device)?;
        let places: Vec<u32> = parts
            .clone()
            .flat_map(|(slot, tokens)| (self.lens[slot]..).take(tokens).flat_map(move |at| [slot as u32, at as u32]))
            .collect();
        let mut runs = parts.map(|(_, tokens)| tokens);
        let first = runs.next().unwrap_or(1);
        let run = if runs.all(|tokens| tokens == first) { first.max(1) } else { 1 };
        let count = places.len() / 2;
        let tensor = Tensor::from_data(TensorData::new(places, [count, 2]), (device, DType::U32));
        Ok(Places { tensor, run })
    }

    /// Room for so many blocks in each slot.
    fn grow(&mut self, needed: usize, device: &Device) -> Result<(), ModelError> {
        let (blocks, limit) = (self.blocks(), self.size.limit.div_ceil(BLOCK));
        if self.is_empty() {
            // What all of the context takes is known: better to hear of it now than in the middle of a text.
            let whole = self.size.bytes_of_block().saturating_mul(limit);
            self.room.check(whole, whole / self.size.tensors().max(1), self.size.limit)?;
        }
        if needed <= blocks {
            return Ok(());
        }
        self.steps.forget();
        let wider = needed.max((2 * blocks).min(limit)).max(self.size.first_blocks());
        let used = self.len().div_ceil(BLOCK);
        self.layers.iter_mut().for_each(|layer| layer.grow(wider, used, device));
        self.positions = self.ropes.positions(wider * BLOCK, device);
        Ok(())
    }

    /// To be called before anything but a recorded step goes on: where its tensors would be copied, a recording is of no use.
    pub(crate) fn change(&mut self) {
        if !self.layers.iter().all(LayerCache::can_change) {
            self.steps.forget();
        }
    }

    /// What [`crate::Transformer::next`] keeps between its calls.
    pub(crate) fn steps(&self) -> &Steps {
        &self.steps
    }

    /// Tokens have been written to their places.
    pub(crate) fn advance(&mut self, parts: impl Iterator<Item = (usize, usize)>) {
        parts.for_each(|(slot, tokens)| self.lens[slot] += tokens);
    }

    /// Angles of the positions, and the layers.
    pub(crate) fn parts(&mut self) -> (&Positions, impl Iterator<Item = &mut LayerCache>) {
        (&self.positions, self.layers.iter_mut())
    }

    fn blocks(&self) -> usize {
        self.layers.first().map_or(0, LayerCache::blocks)
    }
}

impl CacheSize {
    fn first_blocks(&self) -> usize {
        FIRST_BLOCKS.min(self.limit.div_ceil(BLOCK))
    }

    /// Keys and values of each layer.
    fn tensors(&self) -> usize {
        2 * self.layers
    }

    /// Of the keys or the values of a layer, with so many blocks.
    fn shape(&self, blocks: usize) -> [usize; 4] {
        [self.slots, self.kv_heads, blocks, self.format.block_words(self.head_dim)]
    }

    /// Bytes of a block of each slot and head in all layers.
    fn bytes_of_block(&self) -> usize {
        self.tensors() * self.shape(1).iter().product::<usize>() * size_of::<u32>()
    }
}

impl Room {
    /// Refuses a cache for `tokens` tokens that takes `cache` bytes, `tensor` of them in one tensor, if the device cannot
    /// hold it beside the weights.
    fn check(&self, cache: usize, tensor: usize, tokens: usize) -> Result<(), ModelError> {
        if tensor > self.tensor {
            return Err(ModelError::CacheTensor { tokens, needed: tensor as u64, found: self.tensor as u64 });
        }
        match self.device {
            Some(found) if self.weights.saturating_add(cache as u64) > found => {
                Err(ModelError::CacheMemory { tokens, weights: self.weights, cache: cache as u64, found })
            }
            _ => Ok(()),
        }
    }
}

impl LayerCache {
    fn blocks(&self) -> usize {
        self.sides.as_ref().map_or(0, |[keys, _]| keys.dims()[2])
    }

    /// Whether its tensors change in place.
    fn can_change(&self) -> bool {
        self.sides.as_ref().is_some_and(|sides| sides.iter().all(Tensor::can_mut))
    }

    /// Room for `wider` blocks in each slot, of which the first `used` are kept.
    fn grow(&mut self, wider: usize, used: usize, device: &Device) {
        let shape @ [slots, heads, _, words] = self.size.shape(wider);
        let kept = [0..slots, 0..heads, 0..used, 0..words];
        let zeros = || Tensor::zeros(shape, (device, DType::U32));
        self.sides = Some(match self.sides.take() {
            Some(sides) if used > 0 => sides.map(|old| zeros().slice_assign(kept.clone(), old.slice(kept.clone()))),
            _ => [zeros(), zeros()],
        });
    }

    /// Writes `k` and `v` (`[tokens, kv_heads, head_dim]`) to their places and gives the attention of `q`
    /// (`[tokens, heads, head_dim]`) over what is there up to them.
    pub(crate) fn attend(
        &mut self,
        states: [Tensor<3>; 3],
        rope: &RopeTables,
        places: &Places,
        scale: f64,
    ) -> Tensor<3> {
        let sides = self.sides.take().expect("a cache that has room for tokens has its tensors");
        let spec = CacheSpec { format: self.size.format, scale, run: places.run };
        let (out, sides) = ops::cached_attention(states, rope.parts(), sides, places.tensor.clone(), spec);
        self.sides = Some(sides);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_cannot_hold_is_refused_with_how_much_it_is() {
        let room = Room { weights: 600_000_000, device: Some(1_000_000_000), tensor: 100_000_000 };
        room.check(400_000_000, 100_000_000, 7).unwrap();
        let text = |cache, tensor| room.check(cache, tensor, 7).unwrap_err().to_string();
        let tensor = text(400_000_000, 100_000_001);
        assert!(tensor.contains("7 tokens needs 101 MB in one tensor, and the device takes 100 MB"), "{tensor}");
        let all = text(400_000_001, 100_000_000);
        assert!(all.contains("7 tokens need 1001 MB (600 and 401 MB), and the device has 1000 MB"), "{all}");
        Room { device: None, ..room }.check(usize::MAX, 100_000_000, 7).unwrap();
    }
}
