//! What training does beside matrix products: quantizing, unpacking, rounding, and the optimizer's step.
//!
//! Int8 codes lie four in a word, column `c` of a row in byte `c % 4` of its word `c / 4`; the last word of a row is filled
//! up with zeros. Packed weights are in canonical order.

use cubecl::prelude::*;

use super::narrow::{from_f16, from_i8, to_f16};
use super::quantize::{WORD, code_of, put_word, round_one};
use super::rows::{first_row, lane, largest, max_of, row_step, total};

/// Codes in a word.
pub(super) const CODES: usize = 4;

/// The absmax quantizer: codes of each row of `x` (`width` vectors of at most [`CODES`] values, `words` words), and its
/// `multiplier`, `127 / max(max|x|, 1e-5)`.
#[cube(launch)]
pub(super) fn absmax<N: Size>(
    x: &[Vector<f32, N>],
    codes: &mut [u32],
    multiplier: &mut [f32],
    width: usize,
    words: usize,
    #[comptime] units: usize,
) {
    let size = N::value();
    let vectors = comptime!(CODES / size);
    for row in range_stepped(first_row(units), multiplier.len(), row_step(units)) {
        let start = row * width;
        let mut top = Vector::<f32, N>::new(0f32);
        for i in range_stepped(lane(units), width, units.runtime()) {
            top = max(top, x[start + i].abs());
        }
        let factor = 127f32 / max(largest(max_of(top), units), 0.00001f32);
        for word in range_stepped(lane(units), words, units.runtime()) {
            let mut packed = 0u32;
            #[unroll]
            for v in 0..vectors {
                let at = word * vectors + v;
                if at < width {
                    let code = code_of::<N>(x[start + at], factor);
                    #[unroll]
                    for e in 0..size {
                        let shift = comptime!(8 * (v * size + e) as u32);
                        packed |= (u32::reinterpret(i32::cast_from(code.extract(e))) & 255u32) << shift;
                    }
                }
            }
            codes[row * words + word] = packed;
        }
        if lane(units) == 0 {
            multiplier[row] = factor;
        }
    }
}

/// The values of codes, `[rows, cols]`: the codes themselves, or `divided` by the multiplier of their row.
#[cube(launch)]
pub(super) fn values_of_codes(
    codes: &[u32],
    multiplier: &[f32],
    out: &mut [f32],
    cols: usize,
    words: usize,
    #[comptime] divided: bool,
) {
    for task in range_stepped(ABSOLUTE_POS, multiplier.len() * words, CUBE_COUNT * CUBE_DIM as usize) {
        let (row, word) = (task / words, task % words);
        let packed = codes[task];
        #[unroll]
        for e in 0..CODES {
            let column = word * CODES + e;
            if column < cols {
                let bits = Vector::<u32, Const<1>>::new(packed >> comptime!(8 * e as u32));
                let mut value = from_i8::<Const<1>>(bits).extract(0usize);
                if comptime!(divided) {
                    value /= multiplier[row];
                }
                out[row * cols + column] = value;
            }
        }
    }
}

/// The codes of [`absmax`] in the order in which packed weights meet activations (`quantize.rs`), and `meta` as there:
/// `per_word` in a word, or each as the bits of a float. `own` words of a row are read, `words` words of weights met.
#[cube(launch)]
pub(super) fn arrange(
    codes: &[u32],
    multiplier: &[f32],
    out: &mut [u32],
    meta: &mut [f32],
    own: usize,
    words: usize,
    #[comptime] vector: usize,
    #[comptime] per_word: usize,
    #[comptime] units: usize,
) {
    let mask = comptime!(u32::MAX >> (32 - 32 / per_word as u32));
    for row in range_stepped(first_row(units), multiplier.len(), row_step(units)) {
        let mut sum = 0f32;
        for word in range_stepped(lane(units), words, units.runtime()) {
            let mut of_word = Array::<u32>::new(WORD);
            #[unroll]
            for four in 0..comptime!(WORD / CODES) {
                let at = word * comptime!(WORD / CODES) + four;
                let mut packed = 0u32;
                if at < own {
                    packed = codes[row * own + at];
                }
                #[unroll]
                for e in 0..CODES {
                    let value_of = Vector::<u32, Const<1>>::new(packed >> comptime!(8 * e as u32));
                    let value = from_i8::<Const<1>>(value_of).extract(0usize);
                    sum += value;
                    of_word[four * CODES + e] = if comptime!(per_word == 1) {
                        u32::reinterpret(value)
                    } else {
                        u32::reinterpret(i32::cast_from(value)) & mask
                    };
                }
            }
            put_word(&of_word, out, row * words, word, vector, per_word);
        }
        let sum = total(sum, units);
        if lane(units) == 0 {
            meta[2 * row] = multiplier[row];
            meta[2 * row + 1] = sum;
        }
    }
}

/// The scales of the absmean quantizer: the mean of `|w|`, at least `floor`, of each group of `group` columns; the last of a
/// row may be smaller.
#[cube(launch)]
pub(super) fn mean_magnitudes(
    w: &[f32],
    scale: &mut [f32],
    cols: usize,
    group: usize,
    floor: f32,
    #[comptime] units: usize,
) {
    let groups = (cols + group - 1) / group;
    for task in range_stepped(first_row(units), scale.len(), row_step(units)) {
        let (row, first) = (task / groups, task % groups * group);
        let end = min(first + group, cols);
        let mut sum = 0f32;
        for column in range_stepped(first + lane(units), end, units.runtime()) {
            sum += w[row * cols + column].abs();
        }
        let sum = total(sum, units);
        if lane(units) == 0 {
            scale[task] = max(sum / f32::cast_from(end - first), floor);
        }
    }
}

/// Which scale is that of a column: `[1, 1]`, or one for each `group` columns of a row.
#[cube]
fn scale_of(scale: &[f32], row: usize, column: usize, cols: usize, group: usize) -> f32 {
    let mut at = 0usize.runtime();
    if scale.len() > 1 {
        at = row * ((cols + group - 1) / group) + column / group;
    }
    scale[at]
}

/// Words of trits, `round(w / scale)` within -1 and 1; columns that are not there are trits of zero.
#[cube(launch)]
pub(super) fn pack(w: &[f32], scale: &[f32], words: &mut [u32], cols: usize, group: usize) {
    let width = (cols + WORD - 1) / WORD;
    for task in range_stepped(ABSOLUTE_POS, words.len(), CUBE_COUNT * CUBE_DIM as usize) {
        let (row, word) = (task / width, task % width);
        let mut packed = 0u32;
        #[unroll]
        for j in 0..WORD {
            let column = word * WORD + j;
            let mut trit = 0f32;
            if column < cols {
                let inverse = 1f32 / scale_of(scale, row, column, cols, group);
                trit = min(max(round_one(w[row * cols + column] * inverse), -1f32), 1f32);
            }
            packed |= u32::cast_from(trit + 1f32) << comptime!(2 * j as u32);
        }
        words[task] = packed;
    }
}

/// The values of packed weights, `[rows, cols]`: trits, or `scaled`.
#[cube(launch)]
pub(super) fn unpack(
    words: &[u32],
    scale: &[f32],
    out: &mut [f32],
    cols: usize,
    group: usize,
    #[comptime] scaled: bool,
) {
    let width = (cols + WORD - 1) / WORD;
    for task in range_stepped(ABSOLUTE_POS, words.len(), CUBE_COUNT * CUBE_DIM as usize) {
        let (row, word) = (task / width, task % width);
        let packed = words[task];
        #[unroll]
        for j in 0..WORD {
            let column = word * WORD + j;
            if column < cols {
                let mut value = f32::cast_from((packed >> comptime!(2 * j as u32)) & 3u32) - 1f32;
                if comptime!(scaled) {
                    value *= scale_of(scale, row, column, cols, group);
                }
                out[row * cols + column] = value;
            }
        }
    }
}

/// Which 16 bits a value is rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Half {
    /// IEEE half precision.
    F16,
    /// The upper half of f32.
    Bf16,
}

/// The nearest values that 16 bits can hold, ties to even.
#[cube(launch)]
pub(super) fn round_to(x: &[f32], out: &mut [f32], #[comptime] to: Half) {
    for i in range_stepped(ABSOLUTE_POS, out.len(), CUBE_COUNT * CUBE_DIM as usize) {
        let value = x[i];
        if comptime!(to == Half::F16) {
            out[i] = from_f16::<Const<1>>(Vector::new(to_f16(value))).extract(0usize);
        } else {
            let bits = u32::reinterpret(value);
            let mut rounded = bits + 0x7fffu32 + ((bits >> 16u32) & 1u32);
            if (bits & 0x7fff_ffffu32) > 0x7f80_0000u32 {
                rounded = bits;
            }
            out[i] = f32::reinterpret(rounded & 0xffff_0000u32);
        }
    }
}

/// One step of AdamW, see `cpu/adamw.rs`, with its factors: what is kept of a weight, what the gradient is multiplied by,
/// both decays, epsilon, the size of the step, and what the root is multiplied by.
#[cube(launch)]
pub(super) fn adamw(
    w: &mut [f32],
    gradient: &[f32],
    mean: &mut [f32],
    square: &mut [f32],
    keep: f32,
    scale: f32,
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    size: f32,
    root: f32,
) {
    for i in range_stepped(ABSOLUTE_POS, w.len(), CUBE_COUNT * CUBE_DIM as usize) {
        let g = gradient[i] * scale;
        let m = beta_1 * mean[i] + (1f32 - beta_1) * g;
        let v = beta_2 * square[i] + (1f32 - beta_2) * g * g;
        mean[i] = m;
        square[i] = v;
        w[i] = w[i] * keep - size * m / (f32::sqrt(v) * root + epsilon);
    }
}
