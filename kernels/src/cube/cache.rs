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

/// The position of a token, `places` being `[tokens, 2]`: slot and position.
#[cube]
pub(super) fn position_of(places: &[u32], token: usize) -> usize {
    usize::cast_from(places[2 * token + 1])
}

/// The slot of a token's sequence.
#[cube]
pub(super) fn slot_of(places: &[u32], token: usize) -> usize {
    usize::cast_from(places[2 * token])
}

/// Element `d` of the head that begins at `x[at]`, turned by the angles of its position, `cos` and `sin` being
/// `[positions, half]`.
#[cube]
pub(super) fn turned(
    x: &[f32],
    at: usize,
    d: usize,
    cos: &[f32],
    sin: &[f32],
    position: usize,
    #[comptime] half: usize,
) -> f32 {
    let mut value = x[at + d];
    if d < half {
        let angle = position * half + d;
        value = value * cos[angle] - x[at + d + half] * sin[angle];
    } else if d < 2 * half {
        let angle = position * half + d - half;
        value = value * cos[angle] + x[at + d - half] * sin[angle];
    }
    value
}

/// Writes the scale of each head of `x` (`[tokens, kv_heads, head_dim]`) to the cache: `max|x| / 127`. Keys (`half` above
/// zero) are turned.
#[cube(launch)]
pub(super) fn scales(
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    places: &[u32],
    cache: &mut [u32],
    kv_heads: usize,
    blocks: usize,
    #[comptime] head_dim: usize,
    #[comptime] half: usize,
    #[comptime] block_words: usize,
) {
    let rows = x.len() / head_dim;
    for row in range_stepped(ABSOLUTE_POS, rows, CUBE_COUNT * CUBE_DIM as usize) {
        let (head, token) = (row % kv_heads, row / kv_heads);
        let position = position_of(places, token);
        let mut largest = 0f32;
        for d in 0..head_dim {
            largest = max(largest, turned(x, row * head_dim, d, cos, sin, position, half).abs());
        }
        let block = (slot_of(places, token) * kv_heads + head) * blocks + position / BLOCK;
        cache[block * block_words + position % BLOCK] = u32::reinterpret(largest / 127f32);
    }
}

/// Which of the words of a block hold a position: at most so many.
pub(super) fn words_of_position(head_dim: usize, format: CacheFormat, side: CacheSide) -> usize {
    match side {
        CacheSide::Keys => head_dim,
        CacheSide::Values => head_dim.div_ceil(VALUES) * (VALUES / per_word(format) + 1),
    }
}

/// Writes `k` and `v` (`[tokens, kv_heads, head_dim]`) to their places, keys turned.
#[cube(launch)]
pub(super) fn write(
    k: &[f32],
    v: &[f32],
    cos: &[f32],
    sin: &[f32],
    places: &[u32],
    keys: &mut [u32],
    values: &mut [u32],
    kv_heads: usize,
    blocks: usize,
    #[comptime] head_dim: usize,
    #[comptime] half: usize,
    #[comptime] block_words: usize,
    #[comptime] format: CacheFormat,
) {
    let (of_keys, of_values) = comptime!((CacheSide::Keys, CacheSide::Values));
    write_side(k, cos, sin, places, keys, kv_heads, blocks, head_dim, half, block_words, format, of_keys);
    // Values do not turn.
    write_side(v, cos, sin, places, values, kv_heads, blocks, head_dim, 0usize, block_words, format, of_values);
}

/// One side of [`write`]; keys have a `half` above zero.
///
/// A word can hold values of neighbouring positions. The unit of the first token of a call that has a value in it writes it
/// for all of them, and keeps what belongs to other positions.
#[cube]
fn write_side(
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    places: &[u32],
    cache: &mut [u32],
    kv_heads: usize,
    blocks: usize,
    #[comptime] head_dim: usize,
    #[comptime] half: usize,
    #[comptime] block_words: usize,
    #[comptime] format: CacheFormat,
    #[comptime] side: CacheSide,
) {
    let per_word = comptime!(per_word(format));
    let header = comptime!(header(format));
    let words = comptime!(words_of_position(head_dim, format, side));
    let tokens = x.len() / (kv_heads * head_dim);
    for task in range_stepped(ABSOLUTE_POS, tokens * kv_heads * words, CUBE_COUNT * CUBE_DIM as usize) {
        let (part, head, token) = (task % words, task / words % kv_heads, task / words / kv_heads);
        let (slot, position) = (slot_of(places, token), position_of(places, token));
        let lane = position % BLOCK;
        let base = ((slot * kv_heads + head) * blocks + position / BLOCK) * block_words;
        let mut word = (part * BLOCK + lane) / per_word;
        let mut inside = part < head_dim;
        if comptime!(side == CacheSide::Values) {
            let chunk = comptime!(VALUES / per_word + 1);
            let first = part / chunk * VALUES;
            let width = min(VALUES.runtime(), head_dim - first);
            let begin = first * BLOCK + lane * width;
            word = begin / per_word + part % chunk;
            inside = word * per_word < begin + width;
        }
        let mut new = 0u32;
        if inside {
            new = cache[base + header + word];
        }
        #[unroll]
        for e in 0..per_word {
            let index = word * per_word + e;
            let mut d = index / BLOCK;
            let mut own = index % BLOCK;
            if comptime!(side == CacheSide::Values) {
                let first = index / (VALUES * BLOCK) * VALUES;
                let width = min(VALUES.runtime(), head_dim - min(first, head_dim - 1));
                let inner = index - first * BLOCK;
                own = inner / width;
                d = first + inner % width;
            }
            // The token of the call that has this element: as far from this one as their positions are apart.
            let mut there = inside && d < head_dim && token + own >= lane && token + own - lane < tokens;
            let mut other = token;
            if there {
                other = token + own - lane;
                there = slot_of(places, other) == slot && position_of(places, other) + lane == position + own;
            }
            if there {
                // An earlier one writes the word.
                inside = inside && other >= token;
                let at = (other * kv_heads + head) * head_dim;
                let x = turned(x, at, d, cos, sin, position + own - lane, half);
                if comptime!(format == CacheFormat::F32) {
                    new = u32::reinterpret(x);
                } else if comptime!(format == CacheFormat::F16) {
                    let shift = comptime!(16 * e as u32);
                    new = (new & comptime!(!(0xffffu32 << (16 * e as u32)))) | (to_f16(x) << shift);
                } else {
                    let scale = f32::reinterpret(cache[base + own]);
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
        if inside {
            cache[base + header + word] = new;
        }
    }
}
