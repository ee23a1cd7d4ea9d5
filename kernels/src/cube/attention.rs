//! Causal attention of queries over a KV cache, with a running softmax (Milakov and Gimelshein, arXiv 1805.02867) over chunks
//! of keys, so that there is no matrix of scores (Dao et al., "FlashAttention", arXiv 2205.14135).

use cubecl::prelude::*;

use super::cache::{element, header, index_of_value, per_word, position_of, slot_of, turned, value_at};
use crate::cpu::kv_cache::{BLOCK, CacheFormat};

const LOWEST: f32 = -3.0e38;

/// How the work of an attention call is cut for a GPU.
///
/// A cube has some heads that read one KV head, of some tokens that follow each other, so that a key or a value is read and
/// widened once for all of these rows. Its units take the positions of a chunk for the scores, and the elements of the head
/// for the sums of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    /// Width of a head.
    pub head_dim: usize,
    /// Pairs of elements that turn.
    pub half: usize,
    /// Query heads of a cube.
    pub heads: usize,
    /// Cubes that share a KV head.
    pub of_kv_head: usize,
    /// Tokens of a cube.
    pub tokens: usize,
    /// Units of a cube.
    pub units: usize,
    /// Cubes that share the positions of a tile: each takes every so-manieth chunk.
    pub splits: usize,
}

impl Tile {
    /// Rows that scores are kept for.
    fn rows(self) -> usize {
        (self.heads * self.tokens).next_power_of_two()
    }

    /// Groups of rows among which the units are shared out.
    fn groups(self) -> usize {
        self.rows().min(4).min(self.units)
    }

    /// Positions of a chunk.
    pub fn chunk(self) -> usize {
        (self.units / self.groups()).max(BLOCK)
    }

    /// Numbers that a cube leaves for a row of a split tile: sums, the largest score and the sum of weights.
    pub fn partial(self) -> usize {
        self.head_dim + 2
    }
}

/// Elements of a head that a unit has.
fn own_of(tile: Tile) -> usize {
    tile.head_dim.div_ceil(tile.units)
}

/// Attention of `q` (`[tokens, heads, head_dim]`, not rotated) over the cache. Tokens come in runs of `run`, each of one
/// sequence. `out` is of the shape of `q`, or, where tiles are split, `[tokens, heads, splits, head_dim + 2]` for [`combine`].
#[cube(launch)]
pub(super) fn together(
    q: &[f32],
    cos: &[f32],
    sin: &[f32],
    places: &[u32],
    keys: &[u32],
    values: &[u32],
    out: &mut [f32],
    run: usize,
    kv_heads: usize,
    blocks: usize,
    scale: f32,
    #[comptime] tile: Tile,
    #[comptime] block_words: usize,
    #[comptime] format: CacheFormat,
) {
    let head_dim = comptime!(tile.head_dim);
    let half = comptime!(tile.half);
    let rows = comptime!(tile.rows());
    let chunk = comptime!(tile.chunk());
    let units = comptime!(tile.units);
    let groups = comptime!(tile.groups());
    let of_group = comptime!(rows / groups);
    let tile_heads = comptime!(tile.heads);
    let tile_tokens = comptime!(tile.tokens);
    let tile_rows = comptime!(tile.heads * tile.tokens);
    let of_kv_head = comptime!(tile.of_kv_head);
    let splits = comptime!(tile.splits);
    let partial = comptime!(tile.partial());
    let all_values = comptime!(rows * head_dim);
    let all_weights = comptime!(rows * chunk);
    let all_dots = comptime!(chunk * groups);
    let stride = comptime!(tile.splits * chunk);
    let all_sums = comptime!(own_of(tile) * rows);
    let own = comptime!(own_of(tile));
    let header = comptime!(header(format));
    let unit = UNIT_POS as usize;
    let mut queries = Shared::<[f32]>::new_slice(all_values);
    let mut weights = Shared::<[f32]>::new_slice(all_weights);
    let mut tops = Shared::<[f32]>::new_slice(rows);
    let mut fades = Shared::<[f32]>::new_slice(rows);
    let mut totals = Shared::<[f32]>::new_slice(rows);

    let head_tiles = kv_heads * of_kv_head;
    let heads = head_tiles * tile_heads;
    let of_run = (run + tile_tokens - 1) / tile_tokens;
    let tiles = places.len() / 2 / run * of_run;
    for task in range_stepped(CUBE_POS, tiles * head_tiles * splits, CUBE_COUNT) {
        let split = task % splits;
        let head_tile = task / splits % head_tiles;
        let number = task / splits / head_tiles;
        let in_run = number % of_run * tile_tokens;
        let first = number / of_run * run + in_run;
        let count = min(tile_tokens.runtime(), run - in_run);
        let first_head = head_tile * tile_heads;
        for i in range_stepped(unit, all_values.runtime(), units.runtime()) {
            let (row, d) = (i / head_dim, i % head_dim);
            let in_tile = row / tile_heads;
            let mut x = 0f32;
            if in_tile < count {
                let token = first + in_tile;
                let at = (token * heads + first_head + row % tile_heads) * head_dim;
                x = turned(q, at, d, cos, sin, position_of(places, token), half) * scale;
            }
            queries[i] = x;
        }
        for row in range_stepped(unit, rows.runtime(), units.runtime()) {
            tops[row] = LOWEST.runtime();
            totals[row] = 0f32;
        }
        let mut sums = Array::<f32>::new(all_sums);
        #[unroll]
        for i in 0..all_sums {
            sums[i] = 0f32;
        }
        let start = position_of(places, first);
        let end = start + count;
        let cache = (slot_of(places, first) * kv_heads + head_tile / of_kv_head) * blocks;
        sync_cube();
        for from in range_stepped(split * chunk, end, stride.runtime()) {
            for i in range_stepped(unit, all_dots.runtime(), units.runtime()) {
                let (p, group) = (i % chunk, i / chunk);
                let position = from + p;
                let mut dots = Array::<f32>::new(of_group);
                #[unroll]
                for j in 0..of_group {
                    dots[j] = 0f32;
                }
                if position < end {
                    let base = (cache + position / BLOCK) * block_words;
                    let lane = position % BLOCK;
                    for d in 0..head_dim {
                        let key = value_at(keys, base + header, d * BLOCK + lane, format);
                        #[unroll]
                        for j in 0..of_group {
                            dots[j] += queries[(group * of_group + j) * head_dim + d] * key;
                        }
                    }
                    if comptime!(format == CacheFormat::Int8) {
                        let own = f32::reinterpret(keys[base + lane]);
                        #[unroll]
                        for j in 0..of_group {
                            dots[j] *= own;
                        }
                    }
                }
                #[unroll]
                for j in 0..of_group {
                    let row = group * of_group + j;
                    let mut score = LOWEST.runtime();
                    if position <= start + row / tile_heads {
                        score = dots[j];
                    }
                    weights[row * chunk + p] = score;
                }
            }
            sync_cube();
            for row in range_stepped(unit, rows.runtime(), units.runtime()) {
                let old = tops[row];
                let mut top = old;
                for p in 0..chunk {
                    top = max(top, weights[row * chunk + p]);
                }
                fades[row] = f32::exp(old - top);
                tops[row] = top;
            }
            sync_cube();
            for i in range_stepped(unit, all_weights.runtime(), units.runtime()) {
                let mut w = 0f32;
                if weights[i] > LOWEST {
                    w = f32::exp(weights[i] - tops[i / chunk]);
                }
                weights[i] = w;
            }
            sync_cube();
            for row in range_stepped(unit, rows.runtime(), units.runtime()) {
                let mut total = totals[row] * fades[row];
                for p in 0..chunk {
                    total += weights[row * chunk + p];
                }
                totals[row] = total;
            }
            let there = min(chunk.runtime(), end - from);
            #[unroll]
            for i in 0..own {
                let d = unit + i * units;
                if d < head_dim {
                    #[unroll]
                    for row in 0..rows {
                        sums[i * rows + row] *= fades[row];
                    }
                    for p in 0..there {
                        let position = from + p;
                        let base = (cache + position / BLOCK) * block_words;
                        let index = index_of_value(d, position % BLOCK, head_dim);
                        let mut value = value_at(values, base + header, index, format);
                        if comptime!(format == CacheFormat::Int8) {
                            value *= f32::reinterpret(values[base + position % BLOCK]);
                        }
                        #[unroll]
                        for row in 0..rows {
                            sums[i * rows + row] += weights[row * chunk + p] * value;
                        }
                    }
                }
            }
            sync_cube();
        }
        #[unroll]
        for row in 0..tile_rows {
            let in_tile = comptime!(row / tile_heads);
            if in_tile < count {
                let at = (first + in_tile) * heads + first_head + comptime!(row % tile_heads);
                #[unroll]
                for i in 0..own {
                    let d = unit + i * units;
                    if d < head_dim {
                        if comptime!(splits == 1) {
                            out[at * head_dim + d] = sums[i * rows + row] / totals[row];
                        } else {
                            out[(at * splits + split) * partial + d] = sums[i * rows + row];
                        }
                    }
                }
                if comptime!(splits > 1) {
                    let about = (at * splits + split) * partial + head_dim;
                    if unit == 0 {
                        out[about] = tops[row];
                        out[about + 1] = totals[row];
                    }
                }
            }
        }
        sync_cube();
    }
}

/// Puts together what [`together`] has found in the splits of each row.
#[cube(launch)]
pub(super) fn combine(parts: &[f32], out: &mut [f32], #[comptime] head_dim: usize, #[comptime] splits: usize) {
    let partial = comptime!(head_dim + 2);
    for at in range_stepped(ABSOLUTE_POS, out.len(), CUBE_COUNT * CUBE_DIM as usize) {
        let (row, d) = (at / head_dim, at % head_dim);
        let mut top = LOWEST.runtime();
        for split in 0..splits {
            top = max(top, parts[(row * splits + split) * partial + head_dim]);
        }
        let mut sum = 0f32;
        let mut total = 0f32;
        for split in 0..splits {
            let from = (row * splits + split) * partial;
            let fade = f32::exp(parts[from + head_dim] - top);
            sum += fade * parts[from + d];
            total += fade * parts[from + head_dim + 1];
        }
        out[at] = sum / total;
    }
}

/// [`together`] by one unit for each token and head, with a vector of 16 values in a step: `N` is 16 values in words, and
/// `head_dim` a multiple of 16.
#[cube(launch)]
pub(super) fn alone<N: Size>(
    q: &[f32],
    cos: &[f32],
    sin: &[f32],
    places: &[u32],
    keys: &[Vector<u32, N>],
    values: &[Vector<u32, N>],
    out: &mut [f32],
    heads: usize,
    kv_heads: usize,
    blocks: usize,
    scale: f32,
    #[comptime] head_dim: usize,
    #[comptime] half: usize,
    #[comptime] format: CacheFormat,
) {
    let per_word = comptime!(per_word(format));
    let vectors = comptime!(head_dim / BLOCK);
    // As `N`, which a comptime expression cannot ask.
    let width = comptime!(BLOCK / per_word);
    let header = comptime!(header(format) / (BLOCK / per_word));
    let block_vectors = comptime!(head_dim + header);
    for task in range_stepped(ABSOLUTE_POS, out.len() / head_dim, CUBE_COUNT * CUBE_DIM as usize) {
        let (head, token) = (task % heads, task / heads);
        let position = position_of(places, token);
        let limit = position + 1;
        let cache = (slot_of(places, token) * kv_heads + head / (heads / kv_heads)) * blocks;
        let mut query = Array::<f32>::new(head_dim);
        for d in 0..head_dim {
            query[d] = turned(q, task * head_dim, d, cos, sin, position, half);
        }
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
                let x = Vector::new(query[d]);
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
                    score *= f32::reinterpret(keys[base + comptime!(lane / width)].extract(comptime!(lane % width)));
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
                    w *= f32::reinterpret(values[base + comptime!(lane / width)].extract(comptime!(lane % width)));
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
