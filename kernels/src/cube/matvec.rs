//! Packed ternary weights times quantized activations, a few tokens at a time.
//!
//! `lanes` units share a row of weights: each takes every `lanes`-th vector of words, unpacks it once for a tile of
//! tokens, and the sums of the lanes are added at the end. All sums are integers below 2^24, so they are exact in f32 in
//! any order. A code is a trit plus one; what that adds, the sum of the activations, is taken off once.

use cubecl::prelude::*;

use super::quantize::WORD;
use super::rows::{over_lanes, sum_of};

/// The codes of column `j` of each word.
#[cube]
fn codes_of<V: Size>(words: Vector<u32, V>, j: usize) -> Vector<f32, V> {
    Vector::<f32, V>::cast_from((words >> Vector::new(2u32 * u32::cast_from(j))) & Vector::new(3u32))
}

/// `out[token, row] = (Σ code x - Σ x) (scale / multiplier)` for activations as floats.
///
/// `words` is `[rows, width]` vectors, `codes` and `meta` are as [`super::quantize`] writes them.
#[cube(launch_unchecked)]
pub(super) fn floats<V: Size>(
    words: &[Vector<u32, V>],
    codes: &[Vector<f32, V>],
    meta: &[f32],
    scale: &[f32],
    out: &mut [f32],
    rows: usize,
    width: usize,
    #[comptime] scale_of_row: bool,
    #[comptime] tile: usize,
    #[comptime] lanes: usize,
    #[comptime] units: usize,
) {
    let tokens = meta.len() / 2;
    let groups = CUBE_COUNT * CUBE_DIM as usize / lanes;
    let (group, lane) = (ABSOLUTE_POS / lanes, ABSOLUTE_POS % lanes);
    let tiles = (tokens + tile - 1) / tile;
    // Every group makes as many rounds, so that all units meet where they wait for each other.
    let rounds = (rows * tiles + groups - 1) / groups;
    for round in 0..rounds {
        let task = min(round * groups + group, rows * tiles - 1);
        let (row, first) = (task % rows, task / rows * tile);
        let mut sums = Array::<Vector<f32, V>>::new(tile);
        let mut starts = Array::<usize>::new(tile);
        #[unroll]
        for t in 0..tile {
            sums[t] = Vector::new(0f32);
            starts[t] = min(first + t, tokens - 1) * width;
        }
        for k in range_stepped(lane, width, lanes.runtime()) {
            let word = words[row * width + k];
            for j in 0..WORD {
                let code = codes_of::<V>(word, j);
                #[unroll]
                for t in 0..tile {
                    sums[t] += code * codes[(starts[t] + k) * WORD + j];
                }
            }
        }
        #[unroll]
        for t in 0..tile {
            let dot = over_lanes(sum_of(sums[t]), lanes, units);
            let token = first + t;
            if lane == 0 && token < tokens {
                let scale = if comptime!(scale_of_row) { scale[row] } else { scale[0] };
                out[token * rows + row] = (dot - meta[2 * token + 1]) * (scale / meta[2 * token]);
            }
        }
    }
}

/// [`floats`] for activations of which four are in an integer.
#[cube(launch_unchecked)]
pub(super) fn bytes<V: Size>(
    words: &[Vector<u32, V>],
    codes: &[Vector<u32, V>],
    meta: &[f32],
    scale: &[f32],
    out: &mut [f32],
    rows: usize,
    width: usize,
    #[comptime] scale_of_row: bool,
    #[comptime] tile: usize,
    #[comptime] lanes: usize,
    #[comptime] units: usize,
) {
    let tokens = meta.len() / 2;
    let groups = CUBE_COUNT * CUBE_DIM as usize / lanes;
    let (group, lane) = (ABSOLUTE_POS / lanes, ABSOLUTE_POS % lanes);
    let tiles = (tokens + tile - 1) / tile;
    let rounds = (rows * tiles + groups - 1) / groups;
    for round in 0..rounds {
        let task = min(round * groups + group, rows * tiles - 1);
        let (row, first) = (task % rows, task / rows * tile);
        let mut sums = Array::<i32>::new(tile);
        let mut starts = Array::<usize>::new(tile);
        #[unroll]
        for t in 0..tile {
            sums[t] = 0i32;
            starts[t] = min(first + t, tokens - 1) * width;
        }
        for k in range_stepped(lane, width, lanes.runtime()) {
            let word = words[row * width + k];
            #[unroll]
            for plane in 0..4u32 {
                let code = (word >> Vector::new(2u32 * plane)) & Vector::new(0x0303_0303u32);
                #[unroll]
                for t in 0..tile {
                    let x = codes[(starts[t] + k) * 4 + comptime!(plane as usize)];
                    #[unroll]
                    for v in 0..V::value() {
                        sums[t] = dp4a(i32::reinterpret(code.extract(v)), i32::reinterpret(x.extract(v)), sums[t]);
                    }
                }
            }
        }
        #[unroll]
        for t in 0..tile {
            let dot = over_lanes(f32::cast_from(sums[t]), lanes, units);
            let token = first + t;
            if lane == 0 && token < tokens {
                let scale = if comptime!(scale_of_row) { scale[row] } else { scale[0] };
                out[token * rows + row] = (dot - meta[2 * token + 1]) * (scale / meta[2 * token]);
            }
        }
    }
}

/// Vectors of words whose products a half of 16 bits can add up: 8 products of at most `2 * 128` each time.
const STEPS: usize = 15;

/// [`floats`] for activations of which two are in a word, `H` being `2 V`, on units that work by themselves.
///
/// A matrix is read as `block` streams, so many neighbouring rows each, of which a unit takes one stretch: it reads each
/// stream from one end to the other. A half begins at 2^15, so that it never is negative, and is taken up in 32 bits after
/// [`STEPS`] vectors.
#[cube(launch_unchecked)]
pub(super) fn halves<V: Size, H: Size>(
    words: &[Vector<u32, V>],
    codes: &[Vector<u32, V>],
    meta: &[f32],
    scale: &[f32],
    out: &mut [f32],
    rows: usize,
    width: usize,
    #[comptime] scale_of_row: bool,
    #[comptime] tile: usize,
    #[comptime] block: usize,
) {
    let tokens = meta.len() / 2;
    let stream = (rows + block - 1) / block;
    let chunks = (width + STEPS - 1) / STEPS;
    let units = CUBE_COUNT * CUBE_DIM as usize;
    let stretch = (stream + units - 1) / units;
    let begin = ABSOLUTE_POS * stretch;
    for first in range_stepped(0usize, tokens, tile.runtime()) {
        for at in begin..min(begin + stretch, stream) {
            let mut sums = Array::<Vector<u32, V>>::new(block * tile);
            let mut narrow = Array::<Vector<u16, H>>::new(block * tile);
            let mut of_row = Array::<usize>::new(block);
            let mut of_token = Array::<usize>::new(tile);
            #[unroll]
            for i in 0..block * tile {
                sums[i] = Vector::new(0u32);
            }
            #[unroll]
            for r in 0..block {
                of_row[r] = min(at + r * stream, rows - 1) * width;
            }
            #[unroll]
            for t in 0..tile {
                of_token[t] = min(first + t, tokens - 1) * width;
            }
            for chunk in 0..chunks {
                #[unroll]
                for i in 0..block * tile {
                    narrow[i] = Vector::new(0x8000u16);
                }
                for k in chunk * STEPS..min((chunk + 1) * STEPS, width) {
                    #[unroll]
                    for plane in 0..8u16 {
                        #[unroll]
                        for r in 0..block {
                            let word = Vector::<u16, H>::reinterpret(words[of_row[r] + k]);
                            let code = (word >> Vector::new(2u16 * plane)) & Vector::new(3u16);
                            #[unroll]
                            for t in 0..tile {
                                let x = codes[(of_token[t] + k) * 8 + comptime!(plane as usize)];
                                narrow[r * tile + t] += code * Vector::<u16, H>::reinterpret(x);
                            }
                        }
                    }
                }
                #[unroll]
                for i in 0..block * tile {
                    let pairs = Vector::<u32, V>::reinterpret(narrow[i]);
                    sums[i] += (pairs & Vector::new(0xffffu32)) + (pairs >> Vector::new(16u32));
                }
            }
            let above = Vector::<f32, V>::new(f32::cast_from(chunks) * 65536f32);
            #[unroll]
            for r in 0..block {
                #[unroll]
                for t in 0..tile {
                    let dot = sum_of(Vector::<f32, V>::cast_from(sums[r * tile + t]) - above);
                    let (row, token) = (at + r * stream, first + t);
                    if row < rows && token < tokens {
                        let scale = if comptime!(scale_of_row) { scale[row] } else { scale[0] };
                        out[token * rows + row] = (dot - meta[2 * token + 1]) * (scale / meta[2 * token]);
                    }
                }
            }
        }
    }
}

/// `out[token, row] = (Σ over groups of dot * scale) / multiplier`, the groups added from the left; one unit a row and
/// token. `group` is in vectors of words; a matrix with one scale, or with one a row, has one group.
#[cube(launch)]
pub(super) fn groups<V: Size>(
    words: &[Vector<u32, V>],
    codes: &[Vector<f32, V>],
    meta: &[f32],
    scale: &[f32],
    out: &mut [f32],
    rows: usize,
    width: usize,
    group: usize,
    #[comptime] one_scale: bool,
) {
    let tokens = meta.len() / 2;
    let count = (width + group - 1) / group;
    for task in range_stepped(ABSOLUTE_POS, rows * tokens, CUBE_COUNT * CUBE_DIM as usize) {
        let (row, token) = (task % rows, task / rows);
        let mut sum = 0f32;
        for g in 0..count {
            let mut dots = Vector::<f32, V>::new(0f32);
            for k in g * group..min((g + 1) * group, width) {
                let word = words[row * width + k];
                for j in 0..WORD {
                    let trit = codes_of::<V>(word, j) - Vector::new(1f32);
                    dots += trit * codes[(token * width + k) * WORD + j];
                }
            }
            let scale = if comptime!(one_scale) { scale[0] } else { scale[row * count + g] };
            sum += sum_of(dots) * scale;
        }
        out[token * rows + row] = sum / meta[2 * token];
    }
}
