//! The two quantizers of training: float weights to packed trits, activations to int8 codes.
//!
//! Both give what those of `bitnet_ternary::quantize` give, to the bit, so a trained model is the model that is exported.

use bitnet_ternary::Granularity;
use bitnet_ternary::quantize::{absmax_int8, mean_of, sum_of_magnitudes};

use super::isa::{Isa, on_each_isa};
use super::parallel::{self, Parts};

/// Rows that one task takes.
const ROWS: usize = 16;

/// Scales that a matrix `[rows, cols]` has for each row, and the number of all of them.
pub fn scales(granularity: Granularity, rows: usize, cols: usize) -> (usize, usize) {
    match granularity {
        Granularity::Tensor => (1, 1),
        Granularity::Row => (1, rows),
        Granularity::Group(size) => (cols.div_ceil(size.max(1)), rows * cols.div_ceil(size.max(1))),
    }
}

/// Quantizes `w` (`[rows, cols]`) by absmean to canonical words, row by row, with its scales.
///
/// `words` has `ceil(cols / 16)` words a row, `scale` as many values as [`scales`] says. A weight that is not finite makes
/// its scale NaN or infinite, and so every output that it takes part in.
///
/// Source: Ma et al., "The Era of 1-bit LLMs" (arXiv 2402.17764), eq. 1 to 3.
///
/// # Panics
/// When this processor cannot run `isa`, a slice does not have the length that the others say, or a group is empty.
pub fn absmean(isa: Isa, w: &[f32], cols: usize, granularity: Granularity, words: &mut [u32], scale: &mut [f32]) {
    isa.check();
    let rows = w.len() / cols.max(1);
    let width = cols.div_ceil(16);
    assert_eq!(w.len(), rows * cols, "weights");
    assert_eq!(words.len(), rows * width, "words");
    assert_eq!(scale.len(), scales(granularity, rows, cols).1, "scales");
    let group = match granularity {
        Granularity::Tensor | Granularity::Row => cols,
        Granularity::Group(size) => size,
    };
    assert!(group > 0 || cols == 0, "a group has columns");
    if w.is_empty() {
        return;
    }
    if granularity == Granularity::Tensor {
        let mut sums = vec![0f64; rows];
        parallel::chunks(&mut sums, ROWS, 2 * w.len(), |i, sums| {
            let rows = w[i * ROWS * cols..].chunks_exact(cols);
            sums.iter_mut().zip(rows).for_each(|(sum, row)| *sum = magnitudes(isa, row));
        });
        scale[0] = mean_of(sums.into_iter().sum(), w.len());
    } else {
        let of_row = cols.div_ceil(group);
        parallel::chunks(scale, ROWS * of_row, 2 * w.len(), |i, scale| {
            let parts = w[i * ROWS * cols..].chunks_exact(cols).flat_map(|row| row.chunks(group));
            scale.iter_mut().zip(parts).for_each(|(s, part)| *s = mean_of(magnitudes(isa, part), part.len()));
        });
    }
    let scale = &*scale;
    parallel::chunks(words, ROWS * width, 4 * w.len(), |i, words| {
        let (first, lanes) = (i * ROWS, words.len() / width);
        let mut trits = vec![0u32; width * 16];
        for lane in 0..lanes {
            let row = &w[(first + lane) * cols..][..cols];
            for (j, (part, codes)) in row.chunks(group).zip(trits.chunks_mut(group)).enumerate() {
                let scale = match granularity {
                    Granularity::Tensor => scale[0],
                    Granularity::Row => scale[first + lane],
                    Granularity::Group(_) => scale[(first + lane) * cols.div_ceil(group) + j],
                };
                codes_of(isa, part, 1.0 / scale, codes);
            }
            // Columns that are not there are trits of zero.
            trits[cols..].fill(1);
            pack(isa, &trits, &mut words[lane * width..][..width]);
        }
    });
}

on_each_isa! {
    fn magnitudes(w: &[f32]) -> f64 = sum_of_magnitudes
}

on_each_isa! {
    /// `trit + 1` of each weight: rounded half to even and clamped, so a trit is 1 from just above a half on.
    fn codes_of(w: &[f32], inverse: f32, codes: &mut [u32]) = codes_body
}

#[inline(always)]
fn codes_body(w: &[f32], inverse: f32, codes: &mut [u32]) {
    for (code, w) in codes.iter_mut().zip(w) {
        let x = w * inverse;
        *code = 1 + u32::from(x > 0.5) - u32::from(x < -0.5);
    }
}

on_each_isa! {
    /// Sixteen codes a word.
    fn pack(codes: &[u32], words: &mut [u32]) = pack_body
}

#[inline(always)]
fn pack_body(codes: &[u32], words: &mut [u32]) {
    for (word, codes) in words.iter_mut().zip(codes.as_chunks::<16>().0) {
        *word = (0..16).fold(0, |word, j| word | codes[j] << (2 * j));
    }
}

/// Quantizes each row of `x` (`[tokens, cols]`) by absmax to `codes`, with the multiplier `127 / max(max|x|, 1e-5)` of each
/// in `scale` (`[tokens]`).
///
/// # Panics
/// When this processor cannot run `isa`, or a slice does not have the length that the others say.
pub fn absmax(isa: Isa, x: &[f32], cols: usize, codes: &mut [i8], scale: &mut [f32]) {
    isa.check();
    assert_eq!(x.len(), scale.len() * cols, "activations");
    assert_eq!(codes.len(), x.len(), "codes");
    let codes = Parts::new(codes);
    const TOKENS: usize = 16;
    parallel::chunks(scale, TOKENS, 4 * x.len(), |i, scale| {
        for (token, scale) in (i * TOKENS..).zip(scale) {
            let (start, end) = (token * cols, (token + 1) * cols);
            // SAFETY: the codes of a token are written by its task alone.
            *scale = absmax_of(isa, &x[start..end], unsafe { codes.slice(start, end) });
        }
    });
}

on_each_isa! {
    /// Writes the codes of one token and gives their multiplier.
    pub(super) fn absmax_of(x: &[f32], codes: &mut [i8]) -> f32 = absmax_int8
}

#[cfg(test)]
mod tests {
    use bitnet_ternary::{Scale, quantize};

    use super::*;

    #[test]
    fn weights_become_the_trits_and_scales_of_the_plain_quantizer() {
        for (rows, cols) in [(1, 1), (16, 64), (37, 100), (130, 48), (5, 17)] {
            let mut w: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919) % 2003) as f32 / 1500.0 - 0.7).collect();
            w[..cols].fill(0.0);
            for granularity in [Granularity::Tensor, Granularity::Row, Granularity::Group(16), Granularity::Group(48)] {
                let expected = quantize::absmean(&w, rows, cols, granularity).unwrap();
                let (_, _, words, scale) = expected.into_parts();
                let values = match scale {
                    Scale::Tensor(s) => vec![s],
                    Scale::Row(values) | Scale::Group { values, .. } => values,
                };
                for isa in Isa::available() {
                    let mut packed = vec![0; rows * cols.div_ceil(16)];
                    let mut found = vec![0.0; scales(granularity, rows, cols).1];
                    absmean(isa, &w, cols, granularity, &mut packed, &mut found);
                    assert_eq!(found, values, "{isa} {granularity}");
                    assert_eq!(packed, words, "{isa} {rows} {cols} {granularity}");
                }
            }
        }
    }

    #[test]
    fn a_tie_goes_to_the_even_trit_and_nan_is_not_lost() {
        // The mean magnitude is 1: a half is a tie, and goes to zero.
        let w = [0.5, -0.5, 1.5, -1.5, 2.0, 0.0, 0.50001, -1.49999];
        for isa in Isa::available() {
            let (mut words, mut scale) = ([0], [0.0]);
            absmean(isa, &w, 8, Granularity::Tensor, &mut words, &mut scale);
            let trits: Vec<i32> = (0..8).map(|j| (words[0] >> (2 * j) & 3) as i32 - 1).collect();
            assert_eq!(trits, [0, 0, 1, -1, 1, 0, 1, -1]);
            absmean(isa, &[f32::NAN; 8], 8, Granularity::Tensor, &mut words, &mut scale);
            assert!(scale[0].is_nan());
        }
    }
}
