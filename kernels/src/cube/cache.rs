//! Reading and writing the KV cache, whose layout is told in `cpu/kv_cache.rs`.

use cubecl::prelude::*;

use super::narrow::{from_f16, from_i8, to_f16};
use super::quantize::round_one;
use crate::cpu::kv_cache::{BLOCK, CacheFormat, CacheSide, VALUES};

/// Values in a word.
pub(super) fn per_word(format: CacheFormat) -> usize {
    match format {
        CacheFormat::F32 => 1,
        CacheFormat::F16 => 2,
        CacheFormat::Int8 => 4,
    }
}

/// Words before the values of a block: the scales of int8 codes.
pub(super) fn header(format: CacheFormat) -> usize {
    if format == CacheFormat::Int8 { BLOCK } else { 0 }
}

/// Element `e` of each word, not scaled yet.
#[cube]
pub(super) fn element<N: Size>(
    words: Vector<u32, N>,
    #[comptime] e: u32,
    #[comptime] format: CacheFormat,
) -> Vector<f32, N> {
    if comptime!(format == CacheFormat::F32) {
        Vector::<f32, N>::reinterpret(words)
    } else if comptime!(format == CacheFormat::F16) {
        from_f16::<N>((words >> Vector::new(16u32 * e)) & Vector::new(0xffffu32))
    } else {
        from_i8::<N>(words >> Vector::new(8u32 * e))
    }
}

/// The value at `index` of a block whose values begin at word `base`, not scaled yet.
#[cube]
pub(super) fn value_at(cache: &[u32], base: usize, index: usize, #[comptime] format: CacheFormat) -> f32 {
    if comptime!(format == CacheFormat::F32) {
        f32::reinterpret(cache[base + index])
    } else if comptime!(format == CacheFormat::F16) {
        let word = cache[base + index / 2];
        let half = (word >> (u32::cast_from(index % 2) * 16u32)) & 0xffffu32;
        from_f16::<Const<1>>(Vector::new(half)).extract(0usize)
    } else {
        let word = cache[base + index / 4];
        from_i8::<Const<1>>(Vector::new(word >> (u32::cast_from(index % 4) * 8u32))).extract(0usize)
    }
}

/// Where element `d` of position `lane` lies in a block of values.
#[cube]
pub(super) fn index_of_value(d: usize, lane: usize, #[comptime] head_dim: usize) -> usize {
    let first = d / VALUES * VALUES;
    first * BLOCK + lane * min(VALUES.runtime(), head_dim - first) + d - first
}

/// Writes the scale of each row of `x` (`[batch, tokens, kv_heads, head_dim]`) to the cache: `max|x| / 127`.
#[cube(launch)]
pub(super) fn scales(
    x: &[f32],
    cache: &mut [u32],
    start: usize,
    tokens: usize,
    kv_heads: usize,
    blocks: usize,
    #[comptime] head_dim: usize,
    #[comptime] block_words: usize,
) {
    let rows = x.len() / head_dim;
    for row in range_stepped(ABSOLUTE_POS, rows, CUBE_COUNT * CUBE_DIM as usize) {
        let mut largest = 0f32;
        for d in 0..head_dim {
            largest = max(largest, x[row * head_dim + d].abs());
        }
        let (head, token) = (row % kv_heads, row / kv_heads % tokens);
        let (sequence, position) = (row / kv_heads / tokens, start + token);
        let block = (sequence * kv_heads + head) * blocks + position / BLOCK;
        cache[block * block_words + position % BLOCK] = u32::reinterpret(largest / 127f32);
    }
}

/// Writes `x` (`[batch, tokens, kv_heads, head_dim]`) to the positions from `start` on: one unit a word, which keeps what
/// belongs to other positions.
#[cube(launch)]
pub(super) fn write(
    x: &[f32],
    cache: &mut [u32],
    start: usize,
    tokens: usize,
    kv_heads: usize,
    blocks: usize,
    #[comptime] head_dim: usize,
    #[comptime] block_words: usize,
    #[comptime] format: CacheFormat,
    #[comptime] side: CacheSide,
) {
    let per_word = comptime!(per_word(format));
    let header = comptime!(header(format));
    let words = comptime!(block_words - header);
    let first_block = start / BLOCK;
    let touched = (start + tokens - 1) / BLOCK + 1 - first_block;
    let heads = cache.len() / (blocks * block_words);
    for task in range_stepped(ABSOLUTE_POS, heads * touched * words, CUBE_COUNT * CUBE_DIM as usize) {
        let word = task % words;
        let block = first_block + task / words % touched;
        let head = task / words / touched;
        let base = (head * blocks + block) * block_words;
        let old = cache[base + header + word];
        let mut new = old;
        #[unroll]
        for e in 0..per_word {
            let index = word * per_word + e;
            let mut d = index / BLOCK;
            let mut lane = index % BLOCK;
            if comptime!(side == CacheSide::Values) {
                let first = index / (VALUES * BLOCK) * VALUES;
                let width = min(VALUES.runtime(), head_dim - first);
                let inner = index - first * BLOCK;
                lane = inner / width;
                d = first + inner % width;
            }
            let position = block * BLOCK + lane;
            if position >= start && position < start + tokens {
                let row = (head / kv_heads * tokens + position - start) * kv_heads + head % kv_heads;
                let x = x[row * head_dim + d];
                if comptime!(format == CacheFormat::F32) {
                    new = u32::reinterpret(x);
                } else if comptime!(format == CacheFormat::F16) {
                    let shift = comptime!(16 * e as u32);
                    new = (new & comptime!(!(0xffffu32 << (16 * e as u32)))) | (to_f16(x) << shift);
                } else {
                    let scale = f32::reinterpret(cache[base + lane]);
                    let mut inverse = 0f32;
                    if scale > 0f32 {
                        inverse = 1f32 / scale;
                    }
                    let code = u32::reinterpret(i32::cast_from(round_one(x * inverse))) & 0xffu32;
                    let shift = comptime!(8 * e as u32);
                    new = (new & comptime!(!(0xffu32 << (8 * e as u32)))) | (code << shift);
                }
            }
        }
        cache[base + header + word] = new;
    }
}
