//! Rows of codes of 8 or 4 bits with a scale for every 32: Q8_0, Q5_0 and IQ4_NL, and Q4_0 and Q2_0.
//!
//! With activations in two bytes (`split.rs`), `w = d * code`:
//!
//! ```text
//! sum w x ≈ sum_32 d s * sum code (64 high + low)
//! ```
//!
//! The sums of 32 weights are exact integers, and an activation is within `max|x| / 16256` of what it was.
//!
//! ```text
//! 16 rows    a step for each 64 columns
//! step       scales d [2 groups][row] f16, 64 bytes; then the codes of the two groups of 32 columns
//! group      8 bits: vector v has 4 codes for each row, of the columns 4 v ..
//!            4 bits: vector v has 4 bytes for each row, the columns 8 v .. in the low nibbles, 8 v + 4 .. in the high ones; a
//!            nibble is the code plus 8
//! ```

use half::f16;

use super::split::{BLOCK, Split, SplitActivations};
use super::{LINE, TILE_ROWS};
use crate::cpu::isa::Isa;

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Columns that share a scale.
pub(super) const GROUP: usize = 32;

/// Columns of a step, and steps of a block of activations.
const STEP: usize = 2 * GROUP;
const STEPS: usize = BLOCK / STEP;

/// Columns of a vector of codes of so many bits.
const fn of_vector(bits: usize) -> usize {
    32 / bits
}

/// Bytes of a step of 16 rows.
const fn step_bytes(bits: usize) -> usize {
    LINE + STEP / of_vector(bits) * LINE
}

/// Bytes of a tile of rows of `cols` columns.
pub(super) fn tile_bytes<const BITS: usize>(cols: usize) -> usize {
    cols / STEP * step_bytes(BITS)
}

/// The bytes of a row in a step, four in each vector.
fn lane_of(codes: &[u8], lane: usize) -> impl Iterator<Item = &[u8; 4]> {
    codes.as_chunks::<LINE>().0.iter().map(move |vector| &vector.as_chunks().0[lane])
}

/// Codes number `four` of each byte.
fn codes_in<const BITS: usize>(bytes: [u8; 4], four: usize) -> [i32; 4] {
    bytes.map(|byte| match BITS {
        8 => i32::from(byte.cast_signed()),
        _ => i32::from(byte >> (4 * four) & 15) - 8,
    })
}

/// A row into its lane of a tile.
///
/// # Panics
/// When a code has more bits.
pub(super) fn put_lane<const BITS: usize>(codes: &[i8], scales: &[f32], lane: usize, tile: &mut [u8]) {
    let steps = tile.chunks_exact_mut(step_bytes(BITS)).zip(codes.chunks_exact(STEP)).zip(scales.as_chunks::<2>().0);
    for ((step, codes), scales) in steps {
        let (first, vectors) = step.split_at_mut(LINE);
        for (group, scale) in scales.iter().enumerate() {
            first[2 * (TILE_ROWS * group + lane)..][..2].copy_from_slice(&f16::from_f32(*scale).to_le_bytes());
        }
        let vectors = vectors.as_chunks_mut::<LINE>().0.iter_mut().zip(codes.chunks_exact(of_vector(BITS)));
        for (vector, codes) in vectors {
            let bytes = &mut vector.as_chunks_mut::<4>().0[lane];
            if BITS == 8 {
                bytes.iter_mut().zip(codes).for_each(|(byte, code)| *byte = code.cast_unsigned());
                continue;
            }
            assert!(codes.iter().all(|code| (-8..8).contains(code)), "a code of four bits: {codes:?}");
            let nibble = |i: usize| (codes[i] + 8).cast_unsigned();
            *bytes = std::array::from_fn(|i| nibble(i) | nibble(4 + i) << 4);
        }
    }
}

fn scale(step: &[u8], group: usize, lane: usize) -> f32 {
    let at = 2 * (TILE_ROWS * group + lane);
    f16::from_le_bytes([step[at], step[at + 1]]).to_f32()
}

/// The values of row `lane` of a tile.
pub(super) fn decode_lane<const BITS: usize>(tile: &[u8], lane: usize, row: &mut [f32]) {
    for (step, row) in tile.chunks_exact(step_bytes(BITS)).zip(row.chunks_exact_mut(STEP)) {
        let scales = [0, 1].map(|group| scale(step, group, lane));
        let vectors = lane_of(&step[LINE..], lane).zip(row.chunks_exact_mut(of_vector(BITS))).enumerate();
        for (v, (bytes, values)) in vectors {
            let scale = scales[of_vector(BITS) * v / GROUP];
            for (four, values) in values.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *values = codes_in::<BITS>(*bytes, four).map(|code| scale * code as f32);
            }
        }
    }
}

/// The products of the 16 rows of a tile with `T` tokens, of as many columns as the tile: `[token][row]`.
///
/// # Panics
/// When a token has another number of columns.
pub(super) fn dots<const BITS: usize, const T: usize>(
    isa: Isa,
    tile: &[u8],
    x: [&SplitActivations; T],
) -> [[f32; TILE_ROWS]; T] {
    let x = x.map(|x| &x.blocks[..]);
    let bytes = |blocks: usize| blocks * STEPS * step_bytes(BITS);
    assert!(x.iter().all(|x| bytes(x.len()) == tile.len()), "as many columns");
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever came in through a public function has passed `Isa::check`.
        Isa::Avx512Vnni => unsafe { x86::avx512::<BITS, T>(tile, x) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::avx2::<BITS, T>(tile, x) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::AvxVnni => unsafe { x86::avxvnni::<BITS, T>(tile, x) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Vnni256 => unsafe { x86::vnni256::<BITS, T>(tile, x) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon => unsafe { neon::neon::<BITS, T>(tile, x) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::NeonDotprod | Isa::NeonI8mm => unsafe { neon::dotprod::<BITS, T>(tile, x) },
        _ => portable::<BITS, T>(tile, x),
    }
}

fn portable<const BITS: usize, const T: usize>(tile: &[u8], x: [&[Split]; T]) -> [[f32; TILE_ROWS]; T] {
    let mut totals = [[0f32; TILE_ROWS]; T];
    for (n, step) in tile.chunks_exact(step_bytes(BITS)).enumerate() {
        let (b, first) = (n / STEPS, n % STEPS * STEP);
        let integers: [[i32; STEP]; T] = x.map(|x| std::array::from_fn(|i| x[b].integer(first + i)));
        let vectors = step[LINE..].as_chunks::<LINE>().0;
        for (group, vectors) in vectors.chunks_exact(GROUP / of_vector(BITS)).enumerate() {
            let mut sums = [[0i32; TILE_ROWS]; T];
            for (v, vector) in vectors.iter().enumerate() {
                for four in 0..of_vector(BITS) / 4 {
                    let column = GROUP * group + of_vector(BITS) * v + 4 * four;
                    for (lane, bytes) in vector.as_chunks::<4>().0.iter().enumerate() {
                        let codes = codes_in::<BITS>(*bytes, four);
                        for (sums, x) in sums.iter_mut().zip(&integers) {
                            let products = codes.iter().zip(&x[column..column + 4]);
                            sums[lane] += products.map(|(code, x)| code * x).sum::<i32>();
                        }
                    }
                }
            }
            for ((totals, sums), x) in totals.iter_mut().zip(sums).zip(x) {
                for (lane, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                    *total += sum as f32 * (scale(step, group, lane) * x[b].scale);
                }
            }
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::row_tiles::TOKENS;

    /// Codes and scales of a row, the extremes among them.
    fn row<const BITS: usize>(n: usize, cols: usize) -> (Vec<i8>, Vec<f32>) {
        let most = 1i32 << (BITS - 1);
        let code = |i: usize| match (n + i / GROUP) % 7 {
            0 => -most,
            1 => most - 1,
            _ => ((i * i + 31 * n) as i32 * 37 / 5).rem_euclid(2 * most) - most,
        };
        let scale = |i: usize| f16::from_f32((i as f32 - 3.0 + n as f32) * 3e-4).to_f32();
        ((0..cols).map(|i| code(i) as i8).collect(), (0..cols / GROUP).map(scale).collect())
    }

    fn check<const BITS: usize>() {
        let cols = 3 * BLOCK;
        let rows: Vec<_> = (0..13).map(|n| row::<BITS>(n, cols)).collect();
        let mut tile = vec![0; tile_bytes::<BITS>(cols)];
        rows.iter().enumerate().for_each(|(lane, (codes, scales))| put_lane::<BITS>(codes, scales, lane, &mut tile));
        let mut x: Vec<Vec<f32>> =
            (0..TOKENS).map(|t| (0..cols).map(|i| ((i * 37 + t * 11) % 201) as f32 - 100.0).collect()).collect();
        x[1].fill(8128.0);
        x[2].fill(-8128.0);
        x[3][300..420].fill(0.0);
        let split: Vec<SplitActivations> = x.iter().map(|x| SplitActivations::new(x)).collect();
        let all = dots::<BITS, TOKENS>(Isa::Scalar, &tile, std::array::from_fn(|t| &split[t]));
        for (lane, (codes, scales)) in rows.iter().enumerate() {
            let values: Vec<f32> =
                codes.iter().enumerate().map(|(i, code)| scales[i / GROUP] * f32::from(*code)).collect();
            let mut found = vec![0.0; cols];
            decode_lane::<BITS>(&tile, lane, &mut found);
            assert_eq!(found, values, "row {lane}");
            for t in 0..TOKENS {
                let of = |i: usize| f64::from(values[i]) * split[t].value(i);
                let (sum, size) = (0..cols).map(of).fold((0.0, 0.0), |a, x| (a.0 + x, a.1 + x.abs()));
                assert!((f64::from(all[t][lane]) - sum).abs() <= 1e-5 * size, "{} {sum}", all[t][lane]);
            }
        }
        assert_eq!(all.map(|of_rows| of_rows[15]), [0.0; TOKENS], "rows that are missing");
        for isa in Isa::available() {
            assert_eq!(dots::<BITS, TOKENS>(isa, &tile, std::array::from_fn(|t| &split[t])), all, "{isa}");
            for t in 0..TOKENS {
                assert_eq!(dots::<BITS, 1>(isa, &tile, [&split[t]])[0], all[t], "{isa}, token {t} alone");
            }
        }
        let bad = SplitActivations::new(&[f32::NAN; 3 * BLOCK]);
        for isa in Isa::available() {
            assert!(dots::<BITS, 1>(isa, &tile, [&bad])[0].iter().all(|y| y.is_nan()), "{isa}");
        }
    }

    #[test]
    fn products_of_bytes_are_those_of_their_values_on_every_instruction_set() {
        check::<8>();
    }

    #[test]
    fn products_of_nibbles_are_those_of_their_values_on_every_instruction_set() {
        check::<4>();
    }

    #[test]
    #[should_panic(expected = "a code of four bits")]
    fn a_code_that_does_not_fit_is_refused() {
        put_lane::<4>(&[8; STEP], &[1.0; 2], 0, &mut vec![0; tile_bytes::<4>(STEP)]);
    }
}
