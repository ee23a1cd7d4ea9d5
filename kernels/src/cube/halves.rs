//! Packed ternary weights times quantized activations on units that work by themselves: threads of a processor.

use cubecl::prelude::*;

use super::gate::activated;
use super::matvec::{finish, plus};
use super::quantize::pack_row;
use super::rows::sum_of;
use crate::cpu::gate::Gate;

/// Vectors of words whose products a half of 16 bits can add up: 8 products of at most `2 * 128` each time.
const STEPS: usize = 15;

/// How the kernel works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct How {
    /// Tokens that meet rows of weights at once.
    pub tile: usize,
    /// Rows, or pairs of a row of the gate and one of what it gates, that are read side by side.
    pub block: usize,
    /// How many there are.
    pub matrices: usize,
    /// Whether each matrix has a scale for each row.
    pub scale_of_row: [bool; 3],
    /// The output is that of a gate, the first matrix, and what it gates.
    pub gate: Option<Gate>,
    /// Every unit quantizes the activations for itself, to its own rows of `codes` and `meta`.
    pub quantizes: bool,
}

/// This unit's part of one matrix, or of a gate and what it gates, `[tokens, rows]` from `first_out` on.
///
/// A matrix is read as `block` streams, so many neighbouring rows each, of which a unit takes one stretch: it reads each
/// stream from one end to the other. A half begins at 2^15, so that it never is negative, and is taken up in 32 bits after
/// [`STEPS`] vectors. The activations are rows of `codes` and `meta` from `first_token` on.
#[cube]
fn part<V: Size, H: Size>(
    words: &[Vector<u32, V>],
    scale: &[f32],
    gated: &[Vector<u32, V>],
    gated_scale: &[f32],
    codes: &[Vector<u32, V>],
    meta: &[f32],
    added: &ComptimeOption<&[f32]>,
    out: &mut [f32],
    first_out: usize,
    tokens: usize,
    first_token: usize,
    rows: usize,
    width: usize,
    #[comptime] of_row: [bool; 2],
    #[comptime] how: How,
) {
    let (tile, block) = comptime!((how.tile, how.block));
    // Matrices that are read together.
    let wide = comptime!(if how.gate.is_some() { 2 } else { 1 });
    let stream = (rows + block - 1) / block;
    let chunks = (width + STEPS - 1) / STEPS;
    let units = CUBE_COUNT * CUBE_DIM as usize;
    let stretch = (stream + units - 1) / units;
    let begin = ABSOLUTE_POS * stretch;
    for first in range_stepped(0usize, tokens, tile.runtime()) {
        for at in begin..min(begin + stretch, stream) {
            let mut sums = Array::<Vector<u32, V>>::new(comptime!(wide * block * tile));
            let mut narrow = Array::<Vector<u16, H>>::new(comptime!(wide * block * tile));
            let mut of_rows = Array::<usize>::new(block);
            let mut of_token = Array::<usize>::new(tile);
            #[unroll]
            for i in 0..comptime!(wide * block * tile) {
                sums[i] = Vector::new(0u32);
            }
            #[unroll]
            for r in 0..block {
                of_rows[r] = min(at + r * stream, rows - 1) * width;
            }
            #[unroll]
            for t in 0..tile {
                of_token[t] = (first_token + min(first + t, tokens - 1)) * width;
            }
            for chunk in 0..chunks {
                #[unroll]
                for i in 0..comptime!(wide * block * tile) {
                    narrow[i] = Vector::new(0x8000u16);
                }
                for k in chunk * STEPS..min((chunk + 1) * STEPS, width) {
                    #[unroll]
                    for plane in 0..8u16 {
                        #[unroll]
                        for r in 0..comptime!(wide * block) {
                            let at = of_rows[comptime!(r / wide)] + k;
                            let word = if comptime!(r % wide == 0) { words[at] } else { gated[at] };
                            let code =
                                (Vector::<u16, H>::reinterpret(word) >> Vector::new(2u16 * plane)) & Vector::new(3u16);
                            #[unroll]
                            for t in 0..tile {
                                let x = codes[(of_token[t] + k) * 8 + comptime!(plane as usize)];
                                narrow[r * tile + t] += code * Vector::<u16, H>::reinterpret(x);
                            }
                        }
                    }
                }
                #[unroll]
                for i in 0..comptime!(wide * block * tile) {
                    let pairs = Vector::<u32, V>::reinterpret(narrow[i]);
                    sums[i] += (pairs & Vector::new(0xffffu32)) + (pairs >> Vector::new(16u32));
                }
            }
            let above = Vector::<f32, V>::new(f32::cast_from(chunks) * 65536f32);
            let [of_first, of_second] = comptime!(of_row);
            #[unroll]
            for r in 0..block {
                #[unroll]
                for t in 0..tile {
                    let i = comptime!(r * wide * tile + t);
                    let dot = sum_of(Vector::<f32, V>::cast_from(sums[i]) - above);
                    let (row, token) = (at + r * stream, first + t);
                    if row < rows && token < tokens {
                        let (of, to) = (first_token + token, first_out + token * rows + row);
                        let mut y = finish(dot, meta, scale, of, row, of_first);
                        if comptime!(how.gate.is_some()) {
                            let up = sum_of(Vector::<f32, V>::cast_from(sums[comptime!(i + tile)]) - above);
                            let kind = comptime!(how.gate.unwrap_or(Gate::Relu2));
                            let gate = activated::<Const<1>>(Vector::new(y), kind).extract(0usize);
                            y = gate * finish(up, meta, gated_scale, of, row, of_second);
                        }
                        out[to] = plus(y, added, to);
                    }
                }
            }
        }
    }
}

/// As `matvec.rs`, for activations of which two are in a word, `H` being `2 V`.
///
/// A call costs a processor more than quantizing a token does. So where `how` says it, `x` (rows of `x_width` vectors) is
/// quantized here, after an RMSNorm if `norm` is its weight, and `codes` and `meta` have a place for the tokens of each unit.
#[cube(launch_unchecked)]
pub(super) fn halves<N: Size, V: Size, H: Size>(
    words_a: &[Vector<u32, V>],
    scale_a: &[f32],
    words_b: ComptimeOption<&[Vector<u32, V>]>,
    scale_b: ComptimeOption<&[f32]>,
    words_c: ComptimeOption<&[Vector<u32, V>]>,
    scale_c: ComptimeOption<&[f32]>,
    x: ComptimeOption<&[Vector<f32, N>]>,
    norm: ComptimeOption<&[Vector<f32, N>]>,
    codes: &mut [u32],
    meta: &mut [f32],
    added: ComptimeOption<&[f32]>,
    out: &mut [f32],
    tokens: usize,
    rows_a: usize,
    rows_b: usize,
    rows_c: usize,
    width: usize,
    x_width: usize,
    eps: f32,
    #[comptime] how: How,
) {
    let [of_a, of_b, of_c] = comptime!(how.scale_of_row);
    let mut first = 0usize.runtime();
    if comptime!(how.quantizes) {
        first = ABSOLUTE_POS * tokens;
        let (x, words) = (x.unwrap(), width * V::value());
        for row in 0..tokens {
            pack_row::<N>(x, &norm, codes, meta, row, first + row, x_width, words, eps, V::value(), 1usize, 2usize);
        }
    }
    let (codes, meta) = (codes.as_vectorized().with_vector_size::<V>(), &*meta);
    if comptime!(how.gate.is_some()) {
        let of_row = comptime!([of_a, of_b]);
        let (gated, gated_scale) = (words_b.unwrap(), scale_b.unwrap());
        part::<V, H>(
            words_a,
            scale_a,
            gated,
            gated_scale,
            codes,
            meta,
            &added,
            out,
            0usize,
            tokens,
            first,
            rows_a,
            width,
            of_row,
            how,
        );
    } else {
        let of_row = comptime!([of_a, of_a]);
        part::<V, H>(
            words_a, scale_a, words_a, scale_a, codes, meta, &added, out, 0usize, tokens, first, rows_a, width, of_row,
            how,
        );
        if comptime!(how.matrices > 1) {
            let (of_row, at) = (comptime!([of_b, of_b]), tokens * rows_a);
            let (words, scale) = (words_b.unwrap(), scale_b.unwrap());
            part::<V, H>(
                words, scale, words, scale, codes, meta, &added, out, at, tokens, first, rows_b, width, of_row, how,
            );
        }
        if comptime!(how.matrices > 2) {
            let (of_row, at) = (comptime!([of_c, of_c]), tokens * (rows_a + rows_b));
            let (words, scale) = (words_c.unwrap(), scale_c.unwrap());
            part::<V, H>(
                words, scale, words, scale, codes, meta, &added, out, at, tokens, first, rows_c, width, of_row, how,
            );
        }
    }
}
