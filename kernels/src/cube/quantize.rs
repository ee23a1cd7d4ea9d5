//! Activations as int8 codes, in the order in which the packed weights meet them.
//!
//! A word holds 16 codes of two bits, and `V` neighbouring words of a row are loaded as one vector. Shifted and masked,
//! the vector gives one column of each of its words, so the activations lie in the same way: those of column `j` of `V`
//! words side by side.
//!
//! ```text
//! floats   [token][words / V][16 columns][V words]            a code is an f32
//! halves   [token][words / V][8 planes p][V words]            a word has the codes of columns p, 8 + p
//! bytes    [token][words / V][4 planes p][V words]            a word has the codes of columns p, 4 + p, 8 + p, 12 + p
//! ```
//!
//! Shifted by `2 p` bits and masked with `0x00030003` or `0x03030303`, a word of weights has those columns in its halves or
//! bytes. Bytes are for devices that multiply four of them at once, halves for processors, whose vectors have twice as many
//! lanes of 16 bits as of 32.

use cubecl::prelude::*;

use super::norm::rms_scale;
use super::rows::{first_row, lane, largest, max_of, row_step, sum_of, total};

/// Columns of a word.
pub(super) const WORD: usize = 16;

/// The nearest integer, halves to the even one: devices differ in what their own rounding does with a half.
#[cube]
fn round_ties_even<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    let floor = x.floor();
    let above = x - floor;
    let half = Vector::<f32, N>::new(0.5f32);
    let one = Vector::<f32, N>::new(1f32);
    let zero = Vector::<f32, N>::new(0f32);
    let odd = floor - (floor * half).floor() * Vector::new(2f32);
    let at_half = select_many(above.equal(&half), odd, zero);
    floor + select_many(above.greater_than(&half), one, at_half)
}

/// [`round_ties_even`] of one value.
#[cube]
pub(super) fn round_one(x: f32) -> f32 {
    round_ties_even::<Const<1>>(Vector::new(x)).extract(0usize)
}

#[cube]
pub(super) fn code_of<N: Size>(x: Vector<f32, N>, scale: f32) -> Vector<f32, N> {
    let code = round_ties_even::<N>(x * Vector::new(scale));
    min(max(code, Vector::new(-128f32)), Vector::new(127f32))
}

/// The value of vector `i` of a row that begins at vector `start`, normalized if there is a weight.
#[cube]
fn value<N: Size>(
    x: &[Vector<f32, N>],
    norm: &ComptimeOption<&[Vector<f32, N>]>,
    scale: f32,
    start: usize,
    i: usize,
) -> Vector<f32, N> {
    let v = x[start + i];
    #[comptime]
    match norm {
        ComptimeOption::Some(weight) => (v * Vector::new(scale)) * weight[i],
        ComptimeOption::None => v,
    }
}

/// Codes of each row of `x` (`width` vectors), after an RMSNorm if `norm` is its weight, and in `meta` the multiplier
/// `127 / max(max|x|, 1e-5)` and the sum of the codes. `words` words of 16 columns are written, zeros after the last.
/// Values that are not `rounded` are written as they are, with the multiplier one.
#[cube(launch)]
pub(super) fn quantize<N: Size>(
    x: &[Vector<f32, N>],
    norm: ComptimeOption<&[Vector<f32, N>]>,
    codes: &mut [f32],
    meta: &mut [f32],
    width: usize,
    words: usize,
    eps: f32,
    #[comptime] vector: usize,
    #[comptime] units: usize,
    #[comptime] rounded: bool,
) {
    let size = N::value();
    for row in range_stepped(first_row(units), meta.len() / 2, row_step(units)) {
        let start = row * width;
        let mut scale = 1f32;
        if comptime!(norm.is_some()) {
            scale = rms_scale::<N>(x, start, width, eps, units);
        }
        let mut multiplier = 1f32;
        if comptime!(rounded) {
            let mut top = Vector::<f32, N>::new(0f32);
            for i in range_stepped(lane(units), width, units.runtime()) {
                top = max(top, value::<N>(x, &norm, scale, start, i).abs());
            }
            multiplier = 127f32 / max(largest(max_of(top), units), 0.00001f32);
        }
        let mut sums = Vector::<f32, N>::new(0f32);
        let to = row * words * WORD;
        for i in range_stepped(lane(units), width, units.runtime()) {
            let mut code = value::<N>(x, &norm, scale, start, i);
            if comptime!(rounded) {
                code = code_of::<N>(code, multiplier);
            }
            sums += code;
            #[unroll]
            for e in 0..size {
                let column = i * size + e;
                let word = column / WORD;
                codes[to + (word / vector * WORD + column % WORD) * vector + word % vector] = code.extract(e);
            }
        }
        for column in range_stepped(width * size + lane(units), words * WORD, units.runtime()) {
            let word = column / WORD;
            codes[to + (word / vector * WORD + column % WORD) * vector + word % vector] = 0f32;
        }
        let sum = total(sum_of(sums), units);
        if lane(units) == 0 {
            meta[2 * row] = multiplier;
            meta[2 * row + 1] = sum;
        }
    }
}

/// [`quantize`] with `per_word` codes in a word: four bytes or two halves.
#[cube(launch)]
pub(super) fn quantize_packed<N: Size>(
    x: &[Vector<f32, N>],
    norm: ComptimeOption<&[Vector<f32, N>]>,
    codes: &mut [u32],
    meta: &mut [f32],
    width: usize,
    words: usize,
    eps: f32,
    #[comptime] vector: usize,
    #[comptime] units: usize,
    #[comptime] per_word: usize,
) {
    for row in range_stepped(first_row(units), meta.len() / 2, row_step(units)) {
        pack_row::<N>(x, &norm, codes, meta, row, row, width, words, eps, vector, units, per_word);
    }
}

/// The codes of word `word` of a row, column by column and without what does not fit, into their places; `before` words come
/// before the row.
#[cube]
pub(super) fn put_word(
    of_word: &Array<u32>,
    codes: &mut [u32],
    before: usize,
    word: usize,
    #[comptime] vector: usize,
    #[comptime] per_word: usize,
) {
    let planes = comptime!(WORD / per_word);
    let to = (before + word / vector * vector) * planes + word % vector;
    #[unroll]
    for plane in 0..planes {
        let mut packed = 0u32;
        #[unroll]
        for b in 0..per_word {
            packed |= of_word[planes * b + plane] << comptime!((32 / per_word * b) as u32);
        }
        codes[to + plane * vector] = packed;
    }
}

/// Row `row` of `x` as row `to_row` of `codes` and `meta`, by `units` units.
#[cube]
pub(super) fn pack_row<N: Size>(
    x: &[Vector<f32, N>],
    norm: &ComptimeOption<&[Vector<f32, N>]>,
    codes: &mut [u32],
    meta: &mut [f32],
    row: usize,
    to_row: usize,
    width: usize,
    words: usize,
    eps: f32,
    #[comptime] vector: usize,
    #[comptime] units: usize,
    #[comptime] per_word: usize,
) {
    let mask = comptime!(u32::MAX >> (32 - 32 / per_word as u32));
    let size = N::value();
    let vectors = comptime!(WORD / size);
    let start = row * width;
    let mut scale = 1f32;
    if comptime!(norm.is_some()) {
        scale = rms_scale::<N>(x, start, width, eps, units);
    }
    let mut top = Vector::<f32, N>::new(0f32);
    for i in range_stepped(lane(units), width, units.runtime()) {
        top = max(top, value::<N>(x, norm, scale, start, i).abs());
    }
    let multiplier = 127f32 / max(largest(max_of(top), units), 0.00001f32);
    let mut sums = Vector::<f32, N>::new(0f32);
    for word in range_stepped(lane(units), words, units.runtime()) {
        let mut of_word = Array::<u32>::new(WORD);
        #[unroll]
        for v in 0..vectors {
            let at = word * vectors + v;
            let mut code = Vector::<f32, N>::new(0f32);
            if at < width {
                code = code_of::<N>(value::<N>(x, norm, scale, start, at), multiplier);
                sums += code;
            }
            #[unroll]
            for e in 0..size {
                of_word[v * size + e] = u32::reinterpret(i32::cast_from(code.extract(e))) & mask;
            }
        }
        put_word(&of_word, codes, to_row * words, word, vector, per_word);
    }
    let sum = total(sum_of(sums), units);
    if lane(units) == 0 {
        meta[2 * to_row] = multiplier;
        meta[2 * to_row + 1] = sum;
    }
}
