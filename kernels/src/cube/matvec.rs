//! Packed ternary weights times quantized activations, a few tokens at a time, on a GPU.
//!
//! `lanes` units share a block of rows of weights: each takes every `lanes`-th vector of words of each row, unpacks it once
//! for a tile of tokens, and the sums of the lanes are added at the end. All sums are integers below 2^24, so they are exact in f32 in
//! any order. A code is a trit plus one; what that adds, the sum of the activations, is taken off once.
//!
//! Up to three matrices that have one input are one launch, their outputs one behind the other: a short matrix by itself
//! does not keep a device busy. Where a gate and what it gates are the two, each row of the output is `act(gate) * up`.

use cubecl::prelude::*;

use super::gate::activated;
use super::quantize::WORD;
use super::rows::{over_lanes, sum_of};
use crate::cpu::gate::Gate;

/// The codes of column `j` of each word.
#[cube]
pub(super) fn codes_of<V: Size>(words: Vector<u32, V>, j: usize) -> Vector<f32, V> {
    Vector::<f32, V>::cast_from((words >> Vector::new(2u32 * u32::cast_from(j))) & Vector::new(3u32))
}

/// `(Σ code x - Σ x) (scale / multiplier)` where `dot` is the first of the sums.
#[cube]
pub(super) fn finish(
    dot: f32,
    meta: &[f32],
    scale: &[f32],
    token: usize,
    row: usize,
    #[comptime] scale_of_row: bool,
) -> f32 {
    let scale = if comptime!(scale_of_row) { scale[row] } else { scale[0] };
    (dot - meta[2 * token + 1]) * (scale / meta[2 * token])
}

/// `y` and what is at `at` in `added`, if there is that.
#[cube]
pub(super) fn plus(y: f32, added: &ComptimeOption<&[f32]>, at: usize) -> f32 {
    #[comptime]
    match added {
        ComptimeOption::Some(added) => y + added[at],
        ComptimeOption::None => y,
    }
}

/// How the mat-vec kernels work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct How {
    /// Four activations are in a word and multiplied at once; else each is a float.
    pub bytes: bool,
    /// Tokens that meet a row of weights at once.
    pub tile: usize,
    /// Neighbouring rows, or pairs of a row of the gate and one of what it gates, that meet an activation once it is loaded.
    pub block: usize,
    /// Units that share a block.
    pub lanes: usize,
    /// Units of a cube.
    pub units: usize,
    /// The lanes are in one plane.
    pub in_plane: bool,
    /// How many there are.
    pub matrices: usize,
    /// Whether each matrix has a scale for each row.
    pub scale_of_row: [bool; 3],
    /// The output is that of a gate, the first matrix, and what it gates.
    pub gate: Option<Gate>,
}

impl How {
    /// Matrices that are read together.
    fn wide(&self) -> usize {
        if self.gate.is_some() { 2 } else { 1 }
    }

    /// Sums that a unit keeps.
    fn sums(&self) -> usize {
        self.wide() * self.block * self.tile
    }
}

/// This unit's part of the dots of a block of rows, `starts` of them each, with a tile of tokens; each row of `words` is
/// followed by the one of `gated` where there is a gate.
#[cube]
fn dots<V: Size>(
    words: &[Vector<u32, V>],
    gated: &[Vector<u32, V>],
    codes: &[Vector<u32, V>],
    starts: &Array<usize>,
    tokens: &Array<usize>,
    sums: &mut Array<f32>,
    width: usize,
    lane: usize,
    #[comptime] how: How,
) {
    let (tile, wide) = comptime!((how.tile, how.wide()));
    let rows = comptime!(wide * how.block);
    if comptime!(how.bytes) {
        let mut dots = Array::<i32>::new(comptime!(how.sums()));
        #[unroll]
        for i in 0..comptime!(how.sums()) {
            dots[i] = 0i32;
        }
        for k in range_stepped(lane, width, how.lanes.runtime()) {
            let mut word = Array::<Vector<u32, V>>::new(rows);
            #[unroll]
            for r in 0..rows {
                let at = starts[comptime!(r / wide)] + k;
                word[r] = if comptime!(r % wide == 0) { words[at] } else { gated[at] };
            }
            #[unroll]
            for plane in 0..4u32 {
                #[unroll]
                for t in 0..tile {
                    let x = codes[(tokens[t] + k) * 4 + comptime!(plane as usize)];
                    #[unroll]
                    for r in 0..rows {
                        let code = (word[r] >> Vector::new(2u32 * plane)) & Vector::new(0x0303_0303u32);
                        let i = comptime!(r * tile + t);
                        #[unroll]
                        for v in 0..V::value() {
                            dots[i] = dp4a(i32::reinterpret(code.extract(v)), i32::reinterpret(x.extract(v)), dots[i]);
                        }
                    }
                }
            }
        }
        #[unroll]
        for i in 0..comptime!(how.sums()) {
            sums[i] = f32::cast_from(dots[i]);
        }
    } else {
        let mut dots = Array::<Vector<f32, V>>::new(comptime!(how.sums()));
        #[unroll]
        for i in 0..comptime!(how.sums()) {
            dots[i] = Vector::new(0f32);
        }
        for k in range_stepped(lane, width, how.lanes.runtime()) {
            let mut word = Array::<Vector<u32, V>>::new(rows);
            #[unroll]
            for r in 0..rows {
                let at = starts[comptime!(r / wide)] + k;
                word[r] = if comptime!(r % wide == 0) { words[at] } else { gated[at] };
            }
            for j in 0..WORD {
                #[unroll]
                for t in 0..tile {
                    let x = Vector::<f32, V>::reinterpret(codes[(tokens[t] + k) * WORD + j]);
                    #[unroll]
                    for r in 0..rows {
                        dots[comptime!(r * tile + t)] += codes_of::<V>(word[r], j) * x;
                    }
                }
            }
        }
        #[unroll]
        for i in 0..comptime!(how.sums()) {
            sums[i] = sum_of(dots[i]);
        }
    }
}

/// The outputs of one to three matrices (`rows_a`, `rows_b`, `rows_c` rows of `width` vectors), `[tokens, rows]` each, one
/// behind the other; one matrix's are added to `added` if there is that. `codes` and `meta` are as `quantize.rs` writes them,
/// floats as their bits.
#[cube(launch_unchecked)]
pub(super) fn matvec<V: Size>(
    words_a: &[Vector<u32, V>],
    scale_a: &[f32],
    words_b: ComptimeOption<&[Vector<u32, V>]>,
    scale_b: ComptimeOption<&[f32]>,
    words_c: ComptimeOption<&[Vector<u32, V>]>,
    scale_c: ComptimeOption<&[f32]>,
    codes: &[Vector<u32, V>],
    meta: &[f32],
    added: ComptimeOption<&[f32]>,
    out: &mut [f32],
    rows_a: usize,
    rows_b: usize,
    rows_c: usize,
    width: usize,
    #[comptime] how: How,
) {
    let (tile, block) = comptime!((how.tile, how.block));
    let [of_a, of_b, of_c] = comptime!(how.scale_of_row);
    let tokens = meta.len() / 2;
    let (blocks_a, blocks_b, blocks_c) =
        ((rows_a + block - 1) / block, (rows_b + block - 1) / block, (rows_c + block - 1) / block);
    let blocks = if comptime!(how.gate.is_some()) { blocks_a } else { blocks_a + blocks_b + blocks_c };
    let groups = CUBE_COUNT * CUBE_DIM as usize / how.lanes;
    let (group, lane) = (ABSOLUTE_POS / how.lanes, ABSOLUTE_POS % how.lanes);
    let tiles = (tokens + tile - 1) / tile;
    // Every group makes as many rounds, so that all units meet where they wait for each other.
    let rounds = (blocks * tiles + groups - 1) / groups;
    for round in 0..rounds {
        let wanted = round * groups + group;
        let task = min(wanted, blocks * tiles - 1);
        // The block, the rows of its matrix, and those of the matrices before it.
        let (mut at, first) = (task % blocks, task / blocks * tile);
        let (mut rows, mut before, mut matrix) = (rows_a, 0usize.runtime(), 0u32.runtime());
        if comptime!(how.gate.is_none() && how.matrices > 1) {
            if at >= blocks_a {
                at -= blocks_a;
                rows = rows_b;
                before = rows_a;
                matrix = 1u32;
                if comptime!(how.matrices > 2) {
                    if at >= blocks_b {
                        at -= blocks_b;
                        rows = rows_c;
                        before += rows_b;
                        matrix = 2u32;
                    }
                }
            }
        }
        let mut sums = Array::<f32>::new(comptime!(how.sums()));
        let mut starts = Array::<usize>::new(block);
        let mut of_token = Array::<usize>::new(tile);
        #[unroll]
        for r in 0..block {
            starts[r] = min(at * block + r, rows - 1) * width;
        }
        #[unroll]
        for t in 0..tile {
            of_token[t] = min(first + t, tokens - 1) * width;
        }
        if comptime!(how.gate.is_some()) {
            let gated = words_b.unwrap();
            dots::<V>(words_a, gated, codes, &starts, &of_token, &mut sums, width, lane, how);
        } else if comptime!(how.matrices == 1) {
            dots::<V>(words_a, words_a, codes, &starts, &of_token, &mut sums, width, lane, how);
        } else if matrix == 0u32 {
            dots::<V>(words_a, words_a, codes, &starts, &of_token, &mut sums, width, lane, how);
        } else if comptime!(how.matrices == 2) {
            let words = words_b.unwrap();
            dots::<V>(words, words, codes, &starts, &of_token, &mut sums, width, lane, how);
        } else if matrix == 1u32 {
            let words = words_b.unwrap();
            dots::<V>(words, words, codes, &starts, &of_token, &mut sums, width, lane, how);
        } else {
            let words = words_c.unwrap();
            dots::<V>(words, words, codes, &starts, &of_token, &mut sums, width, lane, how);
        }
        #[unroll]
        for r in 0..block {
            #[unroll]
            for t in 0..tile {
                let i = comptime!(r * how.wide() * tile + t);
                let dot = over_lanes(sums[i], how.lanes, how.units, how.in_plane);
                let (row, token) = (at * block + r, first + t);
                let there = lane == 0 && token < tokens && row < rows;
                if comptime!(how.gate.is_some()) {
                    let up = over_lanes(sums[comptime!(i + tile)], how.lanes, how.units, how.in_plane);
                    if there {
                        let gate = Vector::<f32, Const<1>>::new(finish(dot, meta, scale_a, token, row, of_a));
                        let up = finish(up, meta, scale_b.unwrap(), token, row, of_b);
                        let kind = comptime!(how.gate.unwrap_or(Gate::Relu2));
                        out[token * rows + row] = activated::<Const<1>>(gate, kind).extract(0usize) * up;
                    }
                } else if there {
                    let to = tokens * before + token * rows + row;
                    if comptime!(how.matrices == 1) {
                        out[to] = plus(finish(dot, meta, scale_a, token, row, of_a), &added, to);
                    } else if matrix == 0u32 {
                        out[to] = finish(dot, meta, scale_a, token, row, of_a);
                    } else if comptime!(how.matrices == 2) {
                        out[to] = finish(dot, meta, scale_b.unwrap(), token, row, of_b);
                    } else if matrix == 1u32 {
                        out[to] = finish(dot, meta, scale_b.unwrap(), token, row, of_b);
                    } else {
                        out[to] = finish(dot, meta, scale_c.unwrap(), token, row, of_c);
                    }
                }
            }
        }
    }
}
