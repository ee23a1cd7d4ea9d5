//! From floats to trits (weights) and to int8 (activations).
//!
//! Both quantizers round half to even and have a floor of 1e-5 under their statistic, as the layers these models were
//! trained with do.

use std::ops::Range;

use crate::fresh::zeroed_words;
use crate::matrix::{check_shape, word_of};
use crate::wide::Wide;
use crate::{CODES_PER_WORD, Granularity, Scale, TernaryError, TernaryMatrix, words_per_row};

/// The least value the absmean and the absmax are taken to have.
pub const FLOOR: f32 = 1e-5;

/// The group sizes [`already_ternary`] tries, coarsest first.
const GROUP_SIZES: [usize; 3] = [128, 64, 32];

/// About as many weights [`nearly_ternary`] looks at first.
const SAMPLE: usize = 4096;

/// About as many floats are read at once by [`absmean_rows`]: they stay in a core's cache.
const READ_AT_ONCE: usize = 1 << 15;

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
    check_sum(sum, w, 0, cols)?;
    let scale = match granularity {
        Granularity::Tensor => Scale::Tensor(mean_of(sum, w.len())),
        Granularity::Row => Scale::Row(w.chunks_exact(cols).map(mean_magnitude).collect()),
        Granularity::Group(0) => return Err(TernaryError::EmptyGroup),
        Granularity::Group(size) => {
            let values = w.chunks_exact(cols).flat_map(|row| row.chunks(size)).map(mean_magnitude).collect();
            Scale::Group { size, values }
        }
    };
    let mut words = zeroed_words(rows * words_per_row(cols));
    Round { weights: w, cols, scale: &scale, words: &mut words }.run_widened();
    TernaryMatrix::from_words(rows, cols, words, scale)
}

/// [`absmean`] with one scale for the matrix, of weights that are never held whole: `read` is asked twice for all rows, a few
/// at a time, and fills a buffer `[rows.len(), cols]`.
///
/// # Errors
/// As [`absmean`], and whatever `read` fails with.
pub fn absmean_rows<E: From<TernaryError>>(
    rows: usize,
    cols: usize,
    mut read: impl FnMut(Range<usize>, &mut [f32]) -> Result<(), E>,
) -> Result<TernaryMatrix, E> {
    check_shape(rows, cols)?;
    let step = (READ_AT_ONCE / cols).clamp(1, rows);
    let mut buffer = vec![0.0; step * cols];
    let mut each = |visit: &mut Visit| {
        (0..rows).step_by(step).try_for_each(|start| {
            let range = start..rows.min(start + step);
            let weights = &mut buffer[..range.len() * cols];
            read(range, weights)?;
            visit(start, weights).map_err(E::from)
        })
    };
    let mut sum = 0.0;
    each(&mut |start, weights| {
        Sum { weights, cols, sum: &mut sum }.run_widened();
        check_sum(sum, weights, start, cols)
    })?;
    let scale = Scale::Tensor(mean_of(sum, rows * cols));
    let mut words = zeroed_words(rows * words_per_row(cols));
    each(&mut |start, weights| {
        let words = &mut words[start * words_per_row(cols)..];
        Round { weights, cols, scale: &scale, words }.run_widened();
        Ok(())
    })?;
    Ok(TernaryMatrix::from_words(rows, cols, words, scale)?)
}

/// What is done with some rows, the number of the first and their weights.
type Visit<'a> = dyn FnMut(usize, &[f32]) -> Result<(), TernaryError> + 'a;

/// Names the first number that is not finite among rows from `start` on, if a sum with them is not. No finite f32s add up to
/// more than an f64 holds.
fn check_sum(sum: f64, weights: &[f32], start: usize, cols: usize) -> Result<(), TernaryError> {
    if !sum.is_finite()
        && let Some(at) = weights.iter().position(|x| !x.is_finite())
    {
        let (index, value) = (start * cols + at, weights[at]);
        return Err(TernaryError::NotFinite { index, row: index / cols, col: index % cols, value });
    }
    Ok(())
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
        for row in self.weights.chunks_exact(self.cols) {
            *self.sum += sum_of_magnitudes(row);
        }
    }
}

/// Rounds weights to codes.
struct Round<'a> {
    weights: &'a [f32],
    cols: usize,
    scale: &'a Scale,
    words: &'a mut [u32],
}

impl Wide for Round<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { weights, cols, scale, words } = self;
        let rows = weights.chunks_exact(cols).zip(words.chunks_exact_mut(words_per_row(cols)));
        match scale {
            Scale::Group { size, .. } if *size < cols => {
                let mut codes = vec![0u8; cols];
                for (row, (weights, words)) in rows.enumerate() {
                    for (start, weights) in (0..cols).step_by(*size).zip(weights.chunks(*size)) {
                        let inverse = 1.0 / scale.at(row, start, cols);
                        for (code, w) in codes[start..].iter_mut().zip(weights) {
                            *code = code_of(w * inverse) as u8;
                        }
                    }
                    for (word, codes) in words.iter_mut().zip(codes.chunks(CODES_PER_WORD)) {
                        *word = word_of(codes.iter().copied());
                    }
                }
            }
            _ => {
                for (row, (weights, words)) in rows.enumerate() {
                    let inverse = 1.0 / scale.at(row, 0, cols);
                    code_row(weights, words, |w| code_of(w * inverse));
                }
            }
        }
    }
}

/// The words of a row, of the code of each weight. Not by iterators that would be compiled apart from the loops around them,
/// for the oldest machine.
#[inline(always)]
fn code_row(weights: &[f32], words: &mut [u32], code: impl Fn(f32) -> u32) {
    let (whole, rest) = weights.as_chunks::<CODES_PER_WORD>();
    for (word, weights) in words.iter_mut().zip(whole) {
        let mut shifted = [0u32; CODES_PER_WORD];
        for (j, (part, weight)) in shifted.iter_mut().zip(weights).enumerate() {
            *part = code(*weight) << (2 * j);
        }
        *word = 0;
        for part in shifted {
            *word |= part;
        }
    }
    if !rest.is_empty() {
        words[whole.len()] = word_of(rest.iter().map(|w| code(*w) as u8));
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
    let mut words = zeroed_words(rows * words_per_row(cols));
    Signs { weights: w, cols, words: &mut words }.run_widened();
    TernaryMatrix::from_words(rows, cols, words, scale).ok()
}

/// The codes of numbers by their signs.
struct Signs<'a> {
    weights: &'a [f32],
    cols: usize,
    words: &'a mut [u32],
}

impl Wide for Signs<'_> {
    #[inline(always)]
    fn run(self) {
        let code = |x: f32| u32::from(x >= 0.0) + u32::from(x > 0.0);
        let words = self.words.chunks_exact_mut(words_per_row(self.cols));
        for (weights, words) in self.weights.chunks_exact(self.cols).zip(words) {
            code_row(weights, words, code);
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

/// Whether a matrix with this first row, and with this sample of all its weights (every [`sample_step`]-th), is surely neither
/// what [`already_ternary`] nor what [`nearly_ternary`] recognizes: a master, which need not be held whole to be quantized.
pub fn is_surely_master(first_row: &[f32], sample: &[f32]) -> bool {
    let smallest = GROUP_SIZES.into_iter().fold(first_row.len(), usize::min);
    let mut magnitudes = first_row[..smallest].iter().map(|x| x.abs()).filter(|x| *x != 0.0);
    let first = magnitudes.next();
    // Every matrix, row or group that could share a scale has these weights in it.
    let has_two_magnitudes = magnitudes.any(|x| Some(x) != first);
    has_two_magnitudes && is_blurred_beyond_trits(first_row, sample)
}

/// The distance between the weights of a sample of `len` weights.
pub fn sample_step(len: usize) -> usize {
    len.div_ceil(SAMPLE)
}

/// A look at a row and at some of all weights, which is enough for nearly every matrix that [`nearly_ternary`] does not
/// recognize. The largest of a sample with a non-zero trit in it is no smaller than three quarters of the largest of all.
fn is_blurred_beyond_trits(first_row: &[f32], sample: &[f32]) -> bool {
    let top = largest(sample);
    let has_gap = sample.iter().all(|x| x.abs() <= top / 3.0 || x.abs() >= 0.75 * top);
    !has_gap && !is_split(first_row, largest(first_row))
}

fn largest(w: &[f32]) -> f32 {
    w.iter().fold(0f32, |max, x| max.max(x.abs()))
}

/// Whether no magnitude lies between a quarter and three quarters of the largest.
fn is_split(w: &[f32], max: f32) -> bool {
    w.iter().all(|x| x.abs() <= 0.25 * max || x.abs() >= 0.75 * max)
}

/// Recognizes trits that a block format of floats has blurred, as [`already_ternary`] recognizes exact ones.
///
/// Storing `scale * trit` in 4 or 6 bits a value moves each magnitude by up to an eighth, and not all in one way. What is
/// left of the gap between zero and the scale tells such weights from others: if no magnitude lies between a quarter and
/// three quarters of the largest, over the matrix or else over each row, those above are non-zero trits, and the largest
/// is the scale. `None` otherwise, for a matrix of zeros, and where [`already_ternary`] would give `None` for its shape.
pub fn nearly_ternary(w: &[f32], rows: usize, cols: usize) -> Option<TernaryMatrix> {
    check_shape(rows, cols).ok()?;
    if w.len() != rows * cols {
        return None;
    }
    let sample: Vec<f32> = w.iter().step_by(sample_step(w.len())).copied().collect();
    if is_blurred_beyond_trits(&w[..cols], &sample) || w.iter().any(|x| !x.is_finite()) {
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
    fn rows_read_twice_give_the_same_matrix() {
        for (rows, cols) in [(1, 1), (3, 17), (40, 64), (29, 2560), (2, 50_000)] {
            let w: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919) % 2003) as f32 / 1000.0 - 1.0).collect();
            let read = |range: Range<usize>, out: &mut [f32]| {
                out.copy_from_slice(&w[range.start * cols..range.end * cols]);
                Ok::<(), TernaryError>(())
            };
            assert_eq!(absmean_rows(rows, cols, read).unwrap(), absmean(&w, rows, cols, Granularity::Tensor).unwrap());
            let mut bad = w.clone();
            bad[rows * cols - 1] = f32::NAN;
            let read = |range: Range<usize>, out: &mut [f32]| {
                out.copy_from_slice(&bad[range.start * cols..range.end * cols]);
                Ok::<(), TernaryError>(())
            };
            let error = absmean_rows(rows, cols, read).unwrap_err();
            let TernaryError::NotFinite { index, row, col, value } = error else { panic!("{error}") };
            assert_eq!((index, row, col), (rows * cols - 1, rows - 1, cols - 1));
            assert!(value.is_nan());
        }
    }

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
        assert!(is_surely_master(&master[..64], &master));
        let exact: Vec<f32> = trits.iter().map(|t| 0.3 * f32::from(*t)).collect();
        for other in [&w, &by_row, &exact] {
            assert!(!is_surely_master(&other[..64], other));
        }
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
