//! Rotary positions and attention over a cache on tensors.

use burn::backend::{DType, TensorMetadata};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::cache::per_word;
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
/// of `q` over it.
pub(crate) fn attend(
    [q, k, v]: [CubeTensor; 3],
    [keys, values]: [CubeTensor; 2],
    spec: CacheSpec,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let (keys, values) = (own(keys), own(values));
    write(k, &keys, spec, CacheSide::Keys);
    write(v, &values, spec, CacheSide::Values);
    let q = into_contiguous(q);
    let (client, target) = (q.client.clone(), Target::of(&q.client));
    let shape: [usize; 4] = q.shape().dims();
    let [batch, tokens, heads, head_dim] = shape;
    let [_, kv_heads, blocks, block_words] = keys.shape().dims();
    let out = empty(&q, shape, DType::F32);
    let (q, y) = (q.into_buffer_arg(), out.clone().into_buffer_arg());
    let (k, v) = (keys.clone().into_buffer_arg(), values.clone().into_buffer_arg());
    let (scale, rows) = (spec.scale as f32, batch * tokens * heads);
    let start = spec.start;
    if target.is_cpu() && head_dim.is_multiple_of(BLOCK) {
        let (count, dim) = target.tasks(rows);
        let vector = BLOCK / per_word(spec.format);
        attention::alone::launch(
            &client,
            count,
            dim,
            vector,
            q,
            k,
            v,
            y,
            start,
            tokens,
            heads,
            kv_heads,
            blocks,
            scale,
            head_dim,
            spec.format,
        );
    } else {
        let (count, dim) =
            if target.is_cpu() { (CubeCount::new_single(), CubeDim::new_1d(1)) } else { target.rows(rows) };
        let units = target.units_of_a_row();
        attention::together::launch(
            &client,
            count,
            dim,
            q,
            k,
            v,
            y,
            start,
            tokens,
            heads,
            kv_heads,
            blocks,
            scale,
            head_dim,
            block_words,
            spec.format,
            units,
        );
    }
    (out, keys, values)
}

fn write(x: CubeTensor, cache: &CubeTensor, spec: CacheSpec, side: CacheSide) {
    let x = into_contiguous(x);
    let (client, target) = (x.client.clone(), Target::of(&x.client));
    let [batch, tokens, kv_heads, head_dim] = x.shape().dims();
    let [_, _, blocks, block_words] = cache.shape().dims();
    let (start, format) = (spec.start, spec.format);
    assert!(start + tokens <= blocks * BLOCK, "the cache has room for {} positions", blocks * BLOCK);
    if format == CacheFormat::Int8 {
        let (count, dim) = target.tasks(batch * tokens * kv_heads);
        let (x, cache) = (x.clone().into_buffer_arg(), cache.clone().into_buffer_arg());
        cache::scales::launch(&client, count, dim, x, cache, start, tokens, kv_heads, blocks, head_dim, block_words);
    }
    let touched = (start + tokens - 1) / BLOCK + 1 - start / BLOCK;
    let (count, dim) = target.tasks(batch * kv_heads * touched * block_words);
    let (x, cache) = (x.into_buffer_arg(), cache.clone().into_buffer_arg());
    cache::write::launch(
        &client,
        count,
        dim,
        x,
        cache,
        start,
        tokens,
        kv_heads,
        blocks,
        head_dim,
        block_words,
        format,
        side,
    );
}
