//! Packed ternary weights times quantized activations, a few tokens at a time, on a GPU.
//!
//! `lanes` units share a row of weights: each takes every `lanes`-th vector of words, unpacks it once for a tile of
//! tokens, and the sums of the lanes are added at the end. All sums are integers below 2^24, so they are exact in f32 in
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

/// How the mat-vec kernels work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct How {
    /// Four activations are in a word and multiplied at once; else each is a float.
    pub bytes: bool,
    /// Tokens that meet a row of weights at once.
    pub tile: usize,
    /// Units that share a row.
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

/// Adds this unit's part of the dots of one row with a tile of tokens to `sums`.
#[cube]
fn add_dots<V: Size>(
    words: &[Vector<u32, V>],
    codes: &[Vector<u32, V>],
    starts: &Array<usize>,
    sums: &mut Array<f32>,
    row: usize,
    width: usize,
    lane: usize,
    #[comptime] how: How,
) {
    if comptime!(how.bytes) {
        let mut dots = Array::<i32>::new(how.tile);
        #[unroll]
        for t in 0..how.tile {
            dots[t] = 0i32;
        }
        for k in range_stepped(lane, width, how.lanes.runtime()) {
            let word = words[row * width + k];
            #[unroll]
            for plane in 0..4u32 {
                let code = (word >> Vector::new(2u32 * plane)) & Vector::new(0x0303_0303u32);
                #[unroll]
                for t in 0..how.tile {
                    let x = codes[(starts[t] + k) * 4 + comptime!(plane as usize)];
                    #[unroll]
                    for v in 0..V::value() {
                        dots[t] = dp4a(i32::reinterpret(code.extract(v)), i32::reinterpret(x.extract(v)), dots[t]);
                    }
                }
            }
        }
        #[unroll]
        for t in 0..how.tile {
            sums[t] = f32::cast_from(dots[t]);
        }
    } else {
        let mut dots = Array::<Vector<f32, V>>::new(how.tile);
        #[unroll]
        for t in 0..how.tile {
            dots[t] = Vector::new(0f32);
        }
        for k in range_stepped(lane, width, how.lanes.runtime()) {
            let word = words[row * width + k];
            for j in 0..WORD {
                let code = codes_of::<V>(word, j);
                #[unroll]
                for t in 0..how.tile {
                    dots[t] += code * Vector::<f32, V>::reinterpret(codes[(starts[t] + k) * WORD + j]);
                }
            }
        }
        #[unroll]
        for t in 0..how.tile {
            sums[t] = sum_of(dots[t]);
        }
    }
}

/// The outputs of one to three matrices (`rows_a`, `rows_b`, `rows_c` rows of `width` vectors), `[tokens, rows]` each, one
/// behind the other. `codes` and `meta` are as `quantize.rs` writes them, floats as their bits.
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
    out: &mut [f32],
    rows_a: usize,
    rows_b: usize,
    rows_c: usize,
    width: usize,
    #[comptime] how: How,
) {
    let tokens = meta.len() / 2;
    let rows = if comptime!(how.gate.is_some()) { rows_a } else { rows_a + rows_b + rows_c };
    let groups = CUBE_COUNT * CUBE_DIM as usize / how.lanes;
    let (group, lane) = (ABSOLUTE_POS / how.lanes, ABSOLUTE_POS % how.lanes);
    let tiles = (tokens + how.tile - 1) / how.tile;
    // Every group makes as many rounds, so that all units meet where they wait for each other.
    let rounds = (rows * tiles + groups - 1) / groups;
    for round in 0..rounds {
        let wanted = round * groups + group;
        let task = min(wanted, rows * tiles - 1);
        let (row, first) = (task % rows, task / rows * how.tile);
        let mut sums = Array::<f32>::new(how.tile);
        let mut ups = Array::<f32>::new(how.tile);
        let mut starts = Array::<usize>::new(how.tile);
        #[unroll]
        for t in 0..how.tile {
            sums[t] = 0f32;
            ups[t] = 0f32;
            starts[t] = min(first + t, tokens - 1) * width;
        }
        if comptime!(how.gate.is_some()) {
            add_dots::<V>(words_a, codes, &starts, &mut sums, row, width, lane, how);
            add_dots::<V>(words_b.unwrap(), codes, &starts, &mut ups, row, width, lane, how);
        } else if comptime!(how.matrices == 1) {
            add_dots::<V>(words_a, codes, &starts, &mut sums, row, width, lane, how);
        } else if row < rows_a {
            add_dots::<V>(words_a, codes, &starts, &mut sums, row, width, lane, how);
        } else if comptime!(how.matrices == 2) {
            add_dots::<V>(words_b.unwrap(), codes, &starts, &mut sums, row - rows_a, width, lane, how);
        } else if row < rows_a + rows_b {
            add_dots::<V>(words_b.unwrap(), codes, &starts, &mut sums, row - rows_a, width, lane, how);
        } else {
            add_dots::<V>(words_c.unwrap(), codes, &starts, &mut sums, row - rows_a - rows_b, width, lane, how);
        }
        #[unroll]
        for t in 0..how.tile {
            let dot = over_lanes(sums[t], how.lanes, how.units, how.in_plane);
            let token = first + t;
            let [of_a, of_b, of_c] = comptime!(how.scale_of_row);
            if comptime!(how.gate.is_some()) {
                let up = over_lanes(ups[t], how.lanes, how.units, how.in_plane);
                if lane == 0 && token < tokens {
                    let gate = Vector::<f32, Const<1>>::new(finish(dot, meta, scale_a, token, row, of_a));
                    let up = finish(up, meta, scale_b.unwrap(), token, row, of_b);
                    let kind = comptime!(how.gate.unwrap_or(Gate::Relu2));
                    out[token * rows + row] = activated::<Const<1>>(gate, kind).extract(0usize) * up;
                }
            } else if lane == 0 && token < tokens {
                if comptime!(how.matrices == 1) {
                    out[token * rows_a + row] = finish(dot, meta, scale_a, token, row, of_a);
                } else if row < rows_a {
                    out[token * rows_a + row] = finish(dot, meta, scale_a, token, row, of_a);
                } else if comptime!(how.matrices == 2) {
                    let row = row - rows_a;
                    out[tokens * rows_a + token * rows_b + row] = finish(dot, meta, scale_b.unwrap(), token, row, of_b);
                } else if row < rows_a + rows_b {
                    let row = row - rows_a;
                    out[tokens * rows_a + token * rows_b + row] = finish(dot, meta, scale_b.unwrap(), token, row, of_b);
                } else {
                    let row = row - rows_a - rows_b;
                    let before = tokens * (rows_a + rows_b);
                    out[before + token * rows_c + row] = finish(dot, meta, scale_c.unwrap(), token, row, of_c);
                }
            }
        }
    }
}
