//! Causal attention of queries over a KV cache, with a running softmax (Milakov and Gimelshein, arXiv 1805.02867).

use cubecl::prelude::*;

use super::cache::{element, header, index_of_value, per_word, value_at};
use super::rows::{largest, total};
use crate::cpu::kv_cache::{BLOCK, CacheFormat};

const LOWEST: f32 = -3.0e38;

/// Attention of `q` (`[batch, tokens, heads, head_dim]`, rotated), a cube of `units` units for each token and head.
///
/// The units take the positions of a chunk for the scores, and the elements of the head for the sum of values.
#[cube(launch)]
pub(super) fn together(
    q: &[f32],
    keys: &[u32],
    values: &[u32],
    out: &mut [f32],
    start: usize,
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    blocks: usize,
    scale: f32,
    #[comptime] head_dim: usize,
    #[comptime] block_words: usize,
    #[comptime] format: CacheFormat,
    #[comptime] units: usize,
) {
    let chunk = comptime!(units.next_multiple_of(BLOCK));
    let header = comptime!(header(format));
    let own = comptime!(head_dim.div_ceil(units));
    let unit = UNIT_POS as usize;
    let mut weights = Shared::<[f32]>::new_slice(chunk);
    for task in range_stepped(CUBE_POS, out.len() / head_dim, CUBE_COUNT) {
        let head = task % heads;
        let limit = start + task / heads % tokens + 1;
        let cache = (task / heads / tokens * kv_heads + head / (heads / kv_heads)) * blocks;
        let mut sums = Array::<f32>::new(own);
        #[unroll]
        for i in 0..own {
            sums[i] = 0f32;
        }
        let mut top = LOWEST.runtime();
        let mut weight = 0f32;
        for first in range_stepped(0usize, limit, chunk.runtime()) {
            let mut best = LOWEST.runtime();
            for p in range_stepped(unit, chunk.runtime(), units.runtime()) {
                let position = first + p;
                let mut score = LOWEST.runtime();
                if position < limit {
                    let base = (cache + position / BLOCK) * block_words;
                    let lane = position % BLOCK;
                    let mut dot = 0f32;
                    for d in 0..head_dim {
                        dot += q[task * head_dim + d] * value_at(keys, base + header, d * BLOCK + lane, format);
                    }
                    if comptime!(format == CacheFormat::Int8) {
                        dot *= f32::reinterpret(keys[base + lane]);
                    }
                    score = dot * scale;
                }
                weights[p] = score;
                best = max(best, score);
            }
            let new_top = max(top, largest(best, units));
            let fade = f32::exp(top - new_top);
            let mut sum = 0f32;
            for p in range_stepped(unit, chunk.runtime(), units.runtime()) {
                let mut w = 0f32;
                if first + p < limit {
                    w = f32::exp(weights[p] - new_top);
                }
                sum += w;
                if comptime!(format == CacheFormat::Int8) {
                    let position = min(first + p, limit - 1);
                    w *= f32::reinterpret(values[(cache + position / BLOCK) * block_words + position % BLOCK]);
                }
                weights[p] = w;
            }
            weight = weight * fade + total(sum, units);
            top = new_top;
            let count = min(chunk.runtime(), limit - first);
            #[unroll]
            for i in 0..own {
                let d = unit + i * units;
                if d < head_dim {
                    let mut sum = sums[i] * fade;
                    for p in 0..count {
                        let position = first + p;
                        let base = (cache + position / BLOCK) * block_words + header;
                        let index = index_of_value(d, position % BLOCK, head_dim);
                        sum += weights[p] * value_at(values, base, index, format);
                    }
                    sums[i] = sum;
                }
            }
            sync_cube();
        }
        #[unroll]
        for i in 0..own {
            let d = unit + i * units;
            if d < head_dim {
                out[task * head_dim + d] = sums[i] / weight;
            }
        }
    }
}

/// [`together`] by one unit for each token and head, with a vector of 16 values in a step: `N` is 16 values in words, and
/// `head_dim` a multiple of 16.
#[cube(launch)]
pub(super) fn alone<N: Size>(
    q: &[f32],
    keys: &[Vector<u32, N>],
    values: &[Vector<u32, N>],
    out: &mut [f32],
    start: usize,
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    blocks: usize,
    scale: f32,
    #[comptime] head_dim: usize,
    #[comptime] format: CacheFormat,
) {
    let per_word = comptime!(per_word(format));
    let vectors = comptime!(head_dim / BLOCK);
    let header = comptime!(header(format) / (BLOCK / per_word));
    let block_vectors = comptime!(head_dim + header);
    for task in range_stepped(ABSOLUTE_POS, out.len() / head_dim, CUBE_COUNT * CUBE_DIM as usize) {
        let head = task % heads;
        let limit = start + task / heads % tokens + 1;
        let cache = (task / heads / tokens * kv_heads + head / (heads / kv_heads)) * blocks;
        let mut sums = Array::<Vector<f32, N>>::new(vectors * per_word);
        for i in 0..vectors * per_word {
            sums[i] = Vector::new(0f32);
        }
        let mut top = LOWEST.runtime();
        let mut weight = 0f32;
        for block in 0..(limit + BLOCK - 1) / BLOCK {
            let base = (cache + block) * block_vectors;
            let mut dots = Array::<Vector<f32, N>>::new(per_word);
            #[unroll]
            for e in 0..per_word {
                dots[e] = Vector::new(0f32);
            }
            for d in 0..head_dim {
                let word = keys[base + header + d];
                let x = Vector::new(q[task * head_dim + d]);
                #[unroll]
                for e in 0..per_word {
                    dots[e] += x * element::<N>(word, comptime!(e as u32), format);
                }
            }
            let mut weights = Array::<f32>::new(BLOCK);
            let mut new_top = top;
            #[unroll]
            for lane in 0..BLOCK {
                let mut score = dots[comptime!(lane % per_word)].extract(comptime!(lane / per_word)) * scale;
                if comptime!(format == CacheFormat::Int8) {
                    score *= f32::reinterpret(keys[base + comptime!(lane / N::value())].extract(comptime!(lane % 4)));
                }
                if block * BLOCK + lane >= limit {
                    score = LOWEST.runtime();
                }
                weights[lane] = score;
                new_top = max(new_top, score);
            }
            let fade = f32::exp(top - new_top);
            let mut sum = 0f32;
            #[unroll]
            for lane in 0..BLOCK {
                let mut w = f32::exp(weights[lane] - new_top);
                if block * BLOCK + lane >= limit {
                    w = 0f32;
                }
                sum += w;
                if comptime!(format == CacheFormat::Int8) {
                    w *= f32::reinterpret(values[base + comptime!(lane / N::value())].extract(comptime!(lane % 4)));
                }
                weights[lane] = w;
            }
            weight = weight * fade + sum;
            top = new_top;
            for v in 0..vectors {
                let first = v / 2 * 2;
                let wide = min(2usize.runtime(), vectors - first);
                let at = base + header + first * BLOCK + v - first;
                #[unroll]
                for e in 0..per_word {
                    sums[v * per_word + e] = sums[v * per_word + e] * Vector::new(fade);
                }
                #[unroll]
                for lane in 0..BLOCK {
                    let word = values[at + lane * wide];
                    #[unroll]
                    for e in 0..per_word {
                        sums[v * per_word + e] +=
                            Vector::new(weights[lane]) * element::<N>(word, comptime!(e as u32), format);
                    }
                }
            }
        }
        for v in 0..vectors {
            #[unroll]
            for e in 0..per_word {
                let sum = sums[v * per_word + e] / Vector::new(weight);
                #[unroll]
                for i in 0..N::value() {
                    out[task * head_dim + v * BLOCK + i * per_word + e] = sum.extract(i);
                }
            }
        }
    }
}
