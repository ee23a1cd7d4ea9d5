//! From floats to trits (weights) and to int8 (activations).
//!
//! Both quantizers round half to even and have a floor of 1e-5 under their statistic, as the layers these models were
//! trained with do.

use crate::matrix::{check_shape, word_of};
use crate::wide::Wide;
use crate::{CODES_PER_WORD, Granularity, Scale, TernaryError, TernaryMatrix, words_per_row};

/// The least value the absmean and the absmax are taken to have.
pub const FLOOR: f32 = 1e-5;

/// The group sizes [`already_ternary`] tries, coarsest first.
const GROUP_SIZES: [usize; 3] = [128, 64, 32];

/// About as many weights [`nearly_ternary`] looks at first.
const SAMPLE: usize = 4096;

/// The least number of equal magnitudes that [`already_ternary`] believes.
const CONVINCING: usize = 8;

/// Quantizes row-major weights `[rows, cols]` by their mean magnitude.
///
/// For each scale's share of the weights, with the mean accumulated in f64 and the rest in f32:
///
/// ```text
/// m = max(mean(|w|), 1e-5)    t = clamp(round_half_even(w * (1 / m)), -1, +1)    scale = m
/// ```
///
/// A row's last group may be shorter than the others; its mean is over what it has.
///
/// # Errors
/// If the shape is empty or too large, `w` has another length, the group size is zero, or a weight is NaN or infinite
/// (the error names which).
pub fn absmean(w: &[f32], rows: usize, cols: usize, granularity: Granularity) -> Result<TernaryMatrix, TernaryError> {
    check_shape(rows, cols)?;
    let (expected, found) = (rows * cols, w.len());
    if found != expected {
        return Err(TernaryError::Length { what: "weights", rows, cols, expected, found });
    }
    let mut sum = 0.0;
    Sum { weights: w, cols, sum: &mut sum }.run_widened();
    // No finite f32s add up to more than an f64 holds.
    if !sum.is_finite()
        && let Some(index) = w.iter().position(|x| !x.is_finite())
    {
        return Err(TernaryError::NotFinite { index, row: index / cols, col: index % cols, value: w[index] });
    }
    let scale = match granularity {
        Granularity::Tensor => Scale::Tensor(mean_of(sum, w.len())),
        Granularity::Row => Scale::Row(w.chunks_exact(cols).map(mean_magnitude).collect()),
        Granularity::Group(0) => return Err(TernaryError::EmptyGroup),
        Granularity::Group(size) => {
            let values = w.chunks_exact(cols).flat_map(|row| row.chunks(size)).map(mean_magnitude).collect();
            Scale::Group { size, values }
        }
    };
    let mut words = Vec::with_capacity(rows * words_per_row(cols));
    Round { weights: w, cols, scale: &scale, words: &mut words }.run_widened();
    TernaryMatrix::from_words(rows, cols, words, scale)
}

/// Adds up magnitudes row by row.
struct Sum<'a> {
    weights: &'a [f32],
    cols: usize,
    sum: &'a mut f64,
}

impl Wide for Sum<'_> {
    #[inline(always)]
    fn run(self) {
        *self.sum = self.weights.chunks_exact(self.cols).map(sum_of_magnitudes).sum();
    }
}

/// Rounds weights to codes.
struct Round<'a> {
    weights: &'a [f32],
    cols: usize,
    scale: &'a Scale,
    words: &'a mut Vec<u32>,
}

impl Wide for Round<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { weights, cols, scale, words } = self;
        match scale {
            Scale::Group { size, .. } if *size < cols => {
                let mut codes = vec![0u8; cols];
                for (row, weights) in weights.chunks_exact(cols).enumerate() {
                    for (start, weights) in (0..cols).step_by(*size).zip(weights.chunks(*size)) {
                        let inverse = 1.0 / scale.at(row, start, cols);
                        for (code, w) in codes[start..].iter_mut().zip(weights) {
                            *code = code_of(w * inverse) as u8;
                        }
                    }
                    words.extend(codes.chunks(CODES_PER_WORD).map(|codes| word_of(codes.iter().copied())));
                }
            }
            _ => {
                for (row, weights) in weights.chunks_exact(cols).enumerate() {
                    let inverse = 1.0 / scale.at(row, 0, cols);
                    let (whole, rest) = weights.as_chunks::<CODES_PER_WORD>();
                    words.extend(whole.iter().map(|weights| {
                        (0..CODES_PER_WORD).fold(0, |word, j| word | code_of(weights[j] * inverse) << (2 * j))
                    }));
                    if !rest.is_empty() {
                        words.push(word_of(rest.iter().map(|w| code_of(w * inverse) as u8)));
                    }
                }
            }
        }
    }
}

/// `clamp(round_half_even(x), -1, +1) + 1`: one half is rounded to zero, all above it to one.
#[inline(always)]
fn code_of(x: f32) -> u32 {
    u32::from(x >= -0.5) + u32::from(x > 0.5)
}

/// `max(mean(|w|), FLOOR)` of a non-empty slice of finite numbers.
fn mean_magnitude(w: &[f32]) -> f32 {
    mean_of(sum_of_magnitudes(w), w.len())
}

/// `max(sum / count, FLOOR)`, as [`absmean`] takes it from the sum of `count` magnitudes: over a matrix, the sums of its
/// rows one after the other. NaN stays NaN.
pub fn mean_of(sum: f64, count: usize) -> f32 {
    let mean = (sum / count as f64) as f32;
    if mean < FLOOR { FLOOR } else { mean }
}

/// `sum(|w|)` in f64, as [`absmean`] takes it over a row or over a group of a row.
#[inline(always)]
pub fn sum_of_magnitudes(w: &[f32]) -> f64 {
    // Independent partial sums let the additions overlap.
    let (chunks, rest) = w.as_chunks::<8>();
    let mut sums = [0f64; 8];
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(x.abs());
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|x| f64::from(x.abs())).sum::<f64>()
}

/// Recognizes floats that are `scale * trit` already, and keeps that scale to the bit.
///
/// Running [`absmean`] on such weights keeps the trits but multiplies the scale by the share of non-zeros, which ruins
/// the model. Here the magnitudes are compared instead: if all the non-zero ones are equal, over the matrix, over each
/// row, or over each group of 128, 64 or 32 columns (the first that holds is taken), that magnitude is the scale. A row or
/// group of zeros has the scale zero.
///
/// A handful of floats can look ternary by chance (any matrix of one column does, row by row), so the answer is `None`
/// unless at least eight magnitudes equal one before them under the same scale, and at least half of all the
/// non-zero ones do. It is also `None` for a matrix of zeros: nothing tells its scale, and `absmean` gives the same weights.
/// And it is `None` if the shape is empty, too large or not that of `w`, or if a value is NaN or infinite.
pub fn already_ternary(w: &[f32], rows: usize, cols: usize) -> Option<TernaryMatrix> {
    check_shape(rows, cols).ok()?;
    if w.len() != rows * cols {
        return None;
    }
    let scale = common_magnitudes(std::iter::once(w))
        .map(|values| Scale::Tensor(values[0]))
        .or_else(|| common_magnitudes(w.chunks_exact(cols)).map(Scale::Row))
        .or_else(|| {
            GROUP_SIZES.into_iter().filter(|size| *size < cols).find_map(|size| {
                common_magnitudes(w.chunks_exact(cols).flat_map(|row| row.chunks(size)))
                    .map(|values| Scale::Group { size, values })
            })
        })?;
    let mut words = Vec::with_capacity(rows * words_per_row(cols));
    Signs { weights: w, cols, words: &mut words }.run_widened();
    TernaryMatrix::from_words(rows, cols, words, scale).ok()
}

/// The codes of numbers by their signs.
struct Signs<'a> {
    weights: &'a [f32],
    cols: usize,
    words: &'a mut Vec<u32>,
}

impl Wide for Signs<'_> {
    #[inline(always)]
    fn run(self) {
        let code = |x: f32| u32::from(x >= 0.0) + u32::from(x > 0.0);
        for weights in self.weights.chunks_exact(self.cols) {
            let (whole, rest) = weights.as_chunks::<CODES_PER_WORD>();
            let word = |weights: &[f32; CODES_PER_WORD]| {
                (0..CODES_PER_WORD).fold(0, |word, j| word | code(weights[j]) << (2 * j))
            };
            self.words.extend(whole.iter().map(word));
            if !rest.is_empty() {
                self.words.push(word_of(rest.iter().map(|x| code(*x) as u8)));
            }
        }
    }
}

/// The one non-zero magnitude of each part, if there is only one in each and the coincidence is convincing.
fn common_magnitudes<'a>(parts: impl Iterator<Item = &'a [f32]>) -> Option<Vec<f32>> {
    // So many at once are looked at without a branch each.
    const RUN: usize = 256;
    let (mut values, mut repeats, mut firsts) = (Vec::new(), 0, 0);
    for part in parts {
        let magnitude = part.iter().map(|x| x.abs()).find(|x| *x != 0.0).unwrap_or(0.0);
        if !magnitude.is_finite() {
            return None;
        }
        let mut count = 0;
        for run in part.chunks(RUN) {
            let (mut same, mut zero) = (0u32, 0u32);
            for x in run {
                same += u32::from(x.abs() == magnitude);
                zero += u32::from(*x == 0.0);
            }
            // In a part of zeros, the magnitude is zero too.
            let alike = if magnitude == 0.0 { zero } else { same + zero };
            if alike as usize != run.len() {
                return None;
            }
            count += if magnitude == 0.0 { 0 } else { same as usize };
        }
        firsts += count.min(1);
        repeats += count - count.min(1);
        values.push(magnitude);
    }
    (repeats >= CONVINCING && repeats >= firsts).then_some(values)
}

/// Recognizes trits that a block format of floats has blurred, as [`already_ternary`] recognizes exact ones.
///
/// Storing `scale * trit` in 4 or 6 bits a value moves each magnitude by up to an eighth, and not all in one way. What is
/// left of the gap between zero and the scale tells such weights from others: if no magnitude lies between a quarter and
/// three quarters of the largest, over the matrix or else over each row, those above are non-zero trits, and the largest
/// is the scale. `None` otherwise, for a matrix of zeros, and where [`already_ternary`] would give `None` for its shape.
pub fn nearly_ternary(w: &[f32], rows: usize, cols: usize) -> Option<TernaryMatrix> {
    check_shape(rows, cols).ok()?;
    let largest = |w: &[f32]| w.iter().fold(0f32, |max, x| max.max(x.abs()));
    let is_split = |w: &[f32], max: f32| w.iter().all(|x| x.abs() <= 0.25 * max || x.abs() >= 0.75 * max);
    if w.len() != rows * cols {
        return None;
    }
    // A look at a row and at some of all weights is enough for nearly every matrix that is something else. The largest of a
    // sample with a non-zero trit in it is no smaller than three quarters of the largest of all.
    let sample: Vec<f32> = w.iter().step_by(w.len().div_ceil(SAMPLE)).copied().collect();
    let top = largest(&sample);
    let has_gap = sample.iter().all(|x| x.abs() <= top / 3.0 || x.abs() >= 0.75 * top);
    if !has_gap && !is_split(&w[..cols], largest(&w[..cols])) {
        return None;
    }
    if w.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let max = largest(w);
    let scale = if max > 0.0 && is_split(w, max) {
        Scale::Tensor(max)
    } else {
        let rows: Vec<f32> = w.chunks_exact(cols).map(largest).collect();
        let is_split = w.chunks_exact(cols).zip(&rows).all(|(row, max)| is_split(row, *max));
        (max > 0.0 && is_split && cols >= CONVINCING).then_some(Scale::Row(rows))?
    };
    let trits: Vec<i8> = w
        .iter()
        .enumerate()
        .map(|(i, x)| if x.abs() > 0.5 * scale.at(i / cols, i % cols, cols) { x.signum() as i8 } else { 0 })
        .collect();
    TernaryMatrix::from_trits(rows, cols, &trits, scale).ok()
}

/// `x.round_ties_even()` for `|x| <= 127`: a float of the size of the addend has no place for a fraction, and its low byte is
/// the integer that is added to it. Unlike the method and a saturating cast, this is one addition on every machine.
#[inline]
fn rounded(x: f32) -> i8 {
    const NO_FRACTION: f32 = 12_582_912.0; // 1.5 * 2^23
    (x + NO_FRACTION).to_bits() as i8
}

/// Quantizes one token's activations to int8 by their largest magnitude, and returns the multiplier that was used.
///
/// ```text
/// a = max(max(|x|), 1e-5)    sx = 127 / a    codes = clamp(round_half_even(x * sx), -128, 127)
/// ```
///
/// all in f32. An activation is about `code / sx`. If any activation is NaN or infinite, every code is 0 and the
/// multiplier is NaN, so that whatever is computed from them is NaN rather than a plausible number.
///
/// # Panics
/// If `x` and `codes` differ in length.
#[inline]
pub fn absmax_int8(x: &[f32], codes: &mut [i8]) -> f32 {
    assert_eq!(x.len(), codes.len(), "one code for each activation");
    // Without their signs, floats are in the order of their bits, and what is not finite is above all others.
    let largest = x.iter().fold(0, |a, x| a.max(x.abs().to_bits()));
    if largest >= f32::INFINITY.to_bits() {
        codes.fill(0);
        return f32::NAN;
    }
    let scale = 127.0 / f32::from_bits(largest).max(FLOOR);
    for (code, x) in codes.iter_mut().zip(x) {
        // The largest is 127 after rounding, whatever the division lost: nothing has to be clamped.
        *code = rounded(x * scale);
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blurred_trits_are_recognized_and_masters_are_not() {
        let trits: Vec<i8> = (0..40 * 64).map(|i| ((i * i + i / 3) % 3) as i8 - 1).collect();
        let blurred = |i: usize, t: i8| f32::from(t) * [0.5, 0.4375, 0.496, 0.48][i % 4] + [0.0, 0.002][i % 2];
        let w: Vec<f32> = trits.iter().enumerate().map(|(i, t)| blurred(i, *t)).collect();
        let matrix = nearly_ternary(&w, 40, 64).unwrap();
        assert_eq!(matrix.trits(), trits);
        assert!(matches!(matrix.scale(), Scale::Tensor(s) if (*s - 0.5).abs() < 0.01));
        assert!(already_ternary(&w, 40, 64).is_none());

        let by_row: Vec<f32> = w.iter().enumerate().map(|(i, x)| x * (1 + i / 64) as f32).collect();
        let matrix = nearly_ternary(&by_row, 40, 64).unwrap();
        assert_eq!(matrix.trits(), trits);
        assert!(matches!(matrix.scale(), Scale::Row(s) if s.len() == 40));

        let master: Vec<f32> = (0..2560).map(|i| ((i * 7919) % 2003) as f32 / 1000.0 - 1.0).collect();
        assert!(nearly_ternary(&master, 40, 64).is_none());
        assert!(nearly_ternary(&[0.0; 64], 1, 64).is_none());
        assert!(nearly_ternary(&[f32::NAN; 64], 1, 64).is_none());
        assert!(nearly_ternary(&[1.0; 64], 1, 65).is_none());
    }

    #[test]
    fn rounding_by_addition_is_rounding_half_to_even() {
        for i in -130_000i32..=130_000 {
            for x in [i as f32 / 1024.0, i as f32 / 1030.0, f32::from_bits(i as u32 & 0x42fe_0000)] {
                assert_eq!(f32::from(rounded(x)), x.round_ties_even(), "{x}");
            }
        }
    }

    #[test]
    fn the_largest_activation_is_127_whatever_its_size() {
        let mut codes = [0i8; 2];
        for i in 1..2_000_000u32 {
            let x = f32::from_bits(0x3727_c5ac + i.wrapping_mul(1_009) % 0x4700_0000);
            absmax_int8(&[x, -x], &mut codes);
            assert_eq!(codes, [127, -127], "{x}");
        }
    }
}
