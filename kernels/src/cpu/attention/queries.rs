//! Queries against the keys of a cache.
//!
//! Keys in f32 or f16 are widened and meet the queries as they are. Keys in int8 meet queries in 16 bits, so that the sum over
//! a head is an exact integer, the same in whatever order and width it is formed:
//!
//! ```text
//! c = round(q s),  s = n / max|q|,  n = min(2^15 - 1, 2^31 / (127 head_dim))      score = (sum c k) (scale / s) scale_k
//! ```
//!
//! What this rounds off a query is `max|q| / 2n`, at most 1.6e-5 of its largest element up to heads of 512: a 250th of what the
//! keys have lost already.

#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{ROWS, portable};
#[cfg(target_arch = "x86_64")]
use crate::cpu::isa::Vectors;
use crate::cpu::isa::{Isa, on_each_isa};
use crate::cpu::kv_cache::{CacheFormat, CacheShape};

/// Codes of a query are filled up with zeros to a multiple of this.
pub(super) const PADDING: usize = 4;

/// Up to [`ROWS`] queries of one KV head.
pub(super) struct Queries<'a> {
    isa: Isa,
    format: CacheFormat,
    head_dim: usize,
    /// What the products of each are multiplied by.
    factors: [f32; ROWS],
    rows: [&'a [f32]; ROWS],
    /// `[rows, head_dim]` with padding, for an int8 cache.
    codes: Vec<i16>,
}

impl<'a> Queries<'a> {
    pub(super) fn new(isa: Isa, cache: CacheShape, scale: f32, queries: impl Iterator<Item = &'a [f32]>) -> Self {
        let CacheShape { format, head_dim, .. } = cache;
        let mut this = Self { isa, format, head_dim, factors: [scale; ROWS], rows: [&[]; ROWS], codes: Vec::new() };
        let width = head_dim.next_multiple_of(PADDING);
        for (i, query) in queries.enumerate() {
            this.rows[i] = query;
            if format == CacheFormat::Int8 {
                this.codes.resize((i + 1) * width, 0);
                this.factors[i] = scale * round(isa, query, &mut this.codes[i * width..][..head_dim]);
            }
        }
        this
    }

    /// Scores of `count` rows (8, 4, 2 or 1) from `first` on with whole blocks of keys, `[count, positions]`.
    pub(super) fn scores(&self, first: usize, count: usize, keys: &[u32], out: &mut [f32]) {
        match count {
            8 => self.scores_of::<8>(first, keys, out),
            4 => self.scores_of::<4>(first, keys, out),
            2 => self.scores_of::<2>(first, keys, out),
            _ => self.scores_of::<1>(first, keys, out),
        }
    }

    fn scores_of<const R: usize>(&self, first: usize, keys: &[u32], out: &mut [f32]) {
        if self.format == CacheFormat::Int8 {
            let width = self.head_dim.next_multiple_of(PADDING);
            let codes = std::array::from_fn::<_, R, _>(|i| &self.codes[(first + i) * width..][..width]);
            let factors = std::array::from_fn(|i| self.factors[first + i]);
            return code_scores(self.isa, codes, factors, self.head_dim, keys, out);
        }
        let q = std::array::from_fn::<_, R, _>(|i| self.rows[first + i]);
        float_scores(self.isa, self.format, q, keys, self.factors[first], out);
    }
}

on_each_isa! {
    /// Writes the codes of a query and gives what they are to be multiplied by.
    fn round(query: &[f32], codes: &mut [i16]) -> f32 = round_body
}

#[inline(always)]
fn round_body(query: &[f32], codes: &mut [i16]) -> f32 {
    let most = (i32::MAX as usize / (127 * query.len())).min(i16::MAX as usize) as f32;
    let largest = query.iter().fold(0f32, |a, x| a.max(x.abs()));
    let inverse = if largest > 0.0 { most / largest } else { 0.0 };
    query.iter().zip(codes).for_each(|(x, code)| *code = nearest(x * inverse));
    largest / most
}

/// The nearest integer to a number of 16 bits, ties to even: 1.5 * 2^23 leaves no place behind the point. A number that is none
/// gives any code.
#[inline(always)]
pub(super) fn nearest(x: f32) -> i16 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT).to_bits() as i16
}

/// `out[row][position] = scale * sum_d q[row][d] * k[position][d]`, for whole blocks of positions.
fn float_scores<const R: usize>(
    isa: Isa,
    format: CacheFormat,
    q: [&[f32]; R],
    blocks: &[u32],
    scale: f32,
    out: &mut [f32],
) {
    match isa.vectors() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever came in through a public function has passed `Isa::check`.
        Vectors::Avx512 => unsafe { x86::scores_avx512(format, q, blocks, scale, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Vectors::Avx2 => unsafe { x86::scores_avx2(format, q, blocks, scale, out) },
        _ => portable::scores(format, q, blocks, scale, out),
    }
}

/// The same for codes: `out[row][position] = factors[row] * sum_d q[row][d] * k[position][d] * scale[position]`.
fn code_scores<const R: usize>(
    isa: Isa,
    q: [&[i16]; R],
    factors: [f32; R],
    head_dim: usize,
    blocks: &[u32],
    out: &mut [f32],
) {
    match isa.vectors() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever came in through a public function has passed `Isa::check`.
        Vectors::Avx512 => unsafe { x86::code_scores_avx512(q, factors, head_dim, blocks, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Vectors::Avx2 => unsafe { x86::code_scores_avx2(q, factors, head_dim, blocks, out) },
        _ => portable::code_scores(q, factors, head_dim, blocks, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stay_in_their_range_and_close_to_the_query() {
        for head_dim in [1, 33, 128, 512, 2000] {
            let query: Vec<f32> = (0..head_dim).map(|i| ((i * 7919) % 2003) as f32 / 500.0 - 2.0).collect();
            let largest = query.iter().fold(0f32, |a, x| a.max(x.abs()));
            for isa in Isa::available() {
                let mut codes = vec![0; head_dim];
                let factor = round(isa, &query, &mut codes);
                let sum: i64 = codes.iter().map(|c| 127 * i64::from(c.unsigned_abs())).sum();
                assert!(sum <= i64::from(i32::MAX), "{head_dim}");
                let close = |(x, c): (&f32, &i16)| (x - f32::from(*c) * factor).abs() <= 0.51 * factor;
                assert!(query.iter().zip(&codes).all(close), "{head_dim}");
                assert!(factor <= largest / 32_767.0 || head_dim > 512);
                assert_eq!(round(isa, &vec![0.0; head_dim], &mut codes), 0.0);
                assert!(codes.iter().all(|code| *code == 0));
            }
        }
    }
}
