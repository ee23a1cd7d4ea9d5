//! Rotary positions, and attention over a cache on tensors.

use burn::backend::{DType, TensorMetadata};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::attention::Tile;
use super::cache::{per_word, words_of_position};
use super::launch::{empty, own};
use super::target::Target;
use super::{attention, cache, rope as rotary};
use crate::cpu::kv_cache::{BLOCK, CacheFormat, CacheSide};
use crate::ops::CacheSpec;

/// Half-split rotary embedding of `x` (`[batch, tokens, heads, head_dim]`).
pub(crate) fn rope(x: CubeTensor, cos: CubeTensor, sin: CubeTensor, start: usize) -> CubeTensor {
    let (x, cos, sin) = (into_contiguous(x), into_contiguous(cos), into_contiguous(sin));
    let (client, target) = (x.client.clone(), Target::of(&x.client));
    let shape: [usize; 4] = x.shape().dims();
    let [batch, tokens, heads, head_dim] = shape;
    let [_, half] = cos.shape().dims();
    let out = empty(&x, shape, DType::F32);
    let (count, dim) = target.tasks(batch * tokens * heads * (head_dim - half));
    let (cos, sin) = (cos.into_buffer_arg(), sin.into_buffer_arg());
    let (x, y) = (x.into_buffer_arg(), out.clone().into_buffer_arg());
    rotary::rope::launch(&client, count, dim, x, cos, sin, y, start, tokens, heads, head_dim, half);
    out
}

/// Writes `k` and `v` to the cache, whose tensors change in place where nothing else holds them, and gives the attention
/// of `q` over it; see [`crate::TernaryOps::cached_attention`].
pub(crate) fn attend(
    [q, k, v]: [CubeTensor; 3],
    [cos, sin]: [CubeTensor; 2],
    [keys, values]: [CubeTensor; 2],
    places: CubeTensor,
    spec: CacheSpec,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let (keys, values) = (own(keys), own(values));
    let (q, cos, sin, places) =
        (into_contiguous(q), into_contiguous(cos), into_contiguous(sin), into_contiguous(places));
    let call = Call { target: Target::of(&q.client), cos, sin, places, spec };
    call.write(k, v, &keys, &values);
    let out = if call.target.is_cpu() && q.shape()[2].is_multiple_of(BLOCK) {
        call.alone(q, &keys, &values)
    } else {
        call.together(q, &keys, &values)
    };
    (out, keys, values)
}

/// Rows of queries and numbers of them that a cube keeps at most.
const TILE_ROWS: usize = 16;
const TILE_VALUES: usize = 2048;

/// Cubes that keep a large GPU busy.
const MANY_CUBES: usize = 512;

/// What the kernels of an attention step have in common.
struct Call {
    target: Target,
    cos: CubeTensor,
    sin: CubeTensor,
    places: CubeTensor,
    spec: CacheSpec,
}

impl Call {
    fn half(&self) -> usize {
        self.cos.shape()[1]
    }

    /// Writes keys and values, in one launch but for the scales of an int8 cache.
    fn write(&self, k: CubeTensor, v: CubeTensor, keys: &CubeTensor, values: &CubeTensor) {
        let (k, v) = (into_contiguous(k), into_contiguous(v));
        let client = k.client.clone();
        let [tokens, kv_heads, head_dim] = k.shape().dims();
        let [_, _, blocks, block_words] = keys.shape().dims();
        let (format, half) = (self.spec.format, self.half());
        if format == CacheFormat::Int8 {
            // Values do not turn.
            for (x, cache, half) in [(&k, keys, half), (&v, values, 0)] {
                let (count, dim) = self.target.tasks(tokens * kv_heads);
                let (x, cache) = (x.clone().into_buffer_arg(), cache.clone().into_buffer_arg());
                let [cos, sin, places] = [&self.cos, &self.sin, &self.places].map(|x| x.clone().into_buffer_arg());
                cache::scales::launch(
                    &client,
                    count,
                    dim,
                    x,
                    cos,
                    sin,
                    places,
                    cache,
                    kv_heads,
                    blocks,
                    head_dim,
                    half,
                    block_words,
                );
            }
        }
        let of_position = [CacheSide::Keys, CacheSide::Values].map(|side| words_of_position(head_dim, format, side));
        let (count, dim) = self.target.tasks(tokens * kv_heads * of_position[0].max(of_position[1]));
        let [cos, sin, places] = [&self.cos, &self.sin, &self.places].map(|x| x.clone().into_buffer_arg());
        cache::write::launch(
            &client,
            count,
            dim,
            k.into_buffer_arg(),
            v.into_buffer_arg(),
            cos,
            sin,
            places,
            keys.clone().into_buffer_arg(),
            values.clone().into_buffer_arg(),
            kv_heads,
            blocks,
            head_dim,
            half,
            block_words,
            format,
        );
    }

    /// By units that work by themselves.
    fn alone(&self, q: CubeTensor, keys: &CubeTensor, values: &CubeTensor) -> CubeTensor {
        let client = q.client.clone();
        let [tokens, heads, head_dim] = q.shape().dims();
        let [_, kv_heads, blocks, _] = keys.shape().dims();
        let out = empty(&q, [tokens, heads, head_dim], DType::F32);
        let (count, dim) = self.target.tasks(tokens * heads);
        let [cos, sin, places] = [&self.cos, &self.sin, &self.places].map(|x| x.clone().into_buffer_arg());
        attention::alone::launch(
            &client,
            count,
            dim,
            BLOCK / per_word(self.spec.format),
            q.into_buffer_arg(),
            cos,
            sin,
            places,
            keys.clone().into_buffer_arg(),
            values.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            heads,
            kv_heads,
            blocks,
            self.spec.scale as f32,
            head_dim,
            self.half(),
            self.spec.format,
        );
        out
    }

    /// By cubes whose units share their work.
    fn together(&self, q: CubeTensor, keys: &CubeTensor, values: &CubeTensor) -> CubeTensor {
        let client = q.client.clone();
        let [tokens, heads, head_dim] = q.shape().dims();
        let [_, kv_heads, blocks, block_words] = keys.shape().dims();
        let run = self.spec.run;
        assert!(run > 0 && tokens.is_multiple_of(run), "{tokens} tokens in runs of {run}");
        let tile = self.tile(heads / kv_heads, head_dim, [tokens, kv_heads, blocks]);
        let rows = tokens / run * run.div_ceil(tile.tokens) * kv_heads * tile.of_kv_head * tile.splits;
        let (count, dim) = match self.target.is_cpu() {
            true => (CubeCount::new_single(), CubeDim::new_1d(1)),
            false => self.target.rows(rows),
        };
        let out = empty(&q, [tokens, heads, head_dim], DType::F32);
        let parts = (tile.splits > 1).then(|| empty(&q, [tokens * heads * tile.splits, tile.partial()], DType::F32));
        let [cos, sin, places] = [&self.cos, &self.sin, &self.places].map(|x| x.clone().into_buffer_arg());
        attention::together::launch(
            &client,
            count,
            dim,
            q.into_buffer_arg(),
            cos,
            sin,
            places,
            keys.clone().into_buffer_arg(),
            values.clone().into_buffer_arg(),
            parts.as_ref().unwrap_or(&out).clone().into_buffer_arg(),
            run,
            kv_heads,
            blocks,
            self.spec.scale as f32,
            tile,
            block_words,
            self.spec.format,
        );
        if let Some(parts) = parts {
            let (count, dim) = self.target.tasks(tokens * heads * head_dim);
            let (parts, y) = (parts.into_buffer_arg(), out.clone().into_buffer_arg());
            attention::combine::launch(&client, count, dim, parts, y, head_dim, tile.splits);
        }
        out
    }

    /// How the work is cut: `group` query heads read a KV head.
    fn tile(&self, group: usize, head_dim: usize, [tokens, kv_heads, blocks]: [usize; 3]) -> Tile {
        let units = self.target.units_of_a_row();
        let most = TILE_ROWS.min(TILE_VALUES / head_dim).max(1);
        let heads = (1..=group.min(most)).rev().find(|heads| group.is_multiple_of(*heads)).unwrap_or(1);
        let of_tile = if units == 1 { 1 } else { (most / heads.next_power_of_two()).clamp(1, self.spec.run) };
        let mut tile =
            Tile { head_dim, half: self.half(), heads, of_kv_head: group / heads, tokens: of_tile, units, splits: 1 };
        if units > 1 {
            // By the room in the cache, not by what is in it: a captured step keeps its launches while that grows. A split
            // should have some chunks to itself.
            let tiles = tokens / self.spec.run * self.spec.run.div_ceil(of_tile) * kv_heads * tile.of_kv_head;
            let chunks = (blocks * BLOCK).div_ceil(4 * tile.chunk());
            tile.splits = 1 << (MANY_CUBES / tiles.max(1)).min(chunks).max(1).ilog2();
        }
        tile
    }
}
