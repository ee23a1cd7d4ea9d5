//! Int8 × 2-bit products on AVX-512 with VNNI.

use std::arch::asm;
use std::arch::x86_64::*;

use super::base3;
use super::tiles::TILE_ROWS;

/// Words between what is used and what is fetched: half a kilobyte. The processor reads ahead by itself, and further away two
/// readings ahead of each other were slower than none (`benches/results/cpu-2026-11-26.md`).
const PREFETCH: usize = 128;

/// `sum(code * x)` of 16 rows for one token: the loop of a decode step, which should cost no more than reading the words.
///
/// # Safety
/// The processor has AVX-512 F, BW and VNNI.
///
/// # Panics
/// When `tile` is not 16 words, or `x` not 4 lanes, for each word of a row.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn dots_of_one(tile: &[u32], x: &[u32], out: &mut [[i32; TILE_ROWS]; 1]) {
    let words = tile.len() / TILE_ROWS;
    assert!(x.len() == 4 * words, "lanes");
    // One sum for each plane: an addition has to wait for the one before it on the same sum.
    let mut sums = [_mm512_setzero_si512(); 4];
    for k in 0..words {
        // SAFETY: word `k` of 16 rows and the four lanes of their activations are there. The prefetch is a hint, of an
        // address that need not exist.
        unsafe {
            let bytes = tile.as_ptr().add(TILE_ROWS * k);
            _mm_prefetch::<_MM_HINT_T0>(bytes.wrapping_add(PREFETCH).cast());
            let codes = unpack(_mm512_loadu_si512(bytes.cast()));
            for (p, sum) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_epi32(x.as_ptr().add(4 * k + p).read().cast_signed());
                *sum = _mm512_dpbusd_epi32(*sum, codes[p], x);
            }
        }
    }
    let [a, b, c, d] = sums;
    let sum = _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d));
    // SAFETY: there is room for 16 lanes.
    unsafe { _mm512_storeu_si512(out[0].as_mut_ptr().cast(), sum) };
}

/// [`dots_of_one`] of a tile with five trits in a byte: the products of the bytes and of what is left of them, see [`base3`].
///
/// # Safety
/// The processor has AVX-512 F, BW and VNNI.
///
/// # Panics
/// When `tile` is not whole groups of 16 rows, or `x` not 20 lanes for each.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn dense_dots(tile: &[u32], x: &[u32]) -> [i32; TILE_ROWS] {
    let groups = base3::check(tile, x);
    let mut total = _mm512_setzero_si512();
    for first in (0..groups).step_by(base3::GROUPS_IN_I32) {
        // One sum for each code of a byte, because an addition waits for the one before it.
        let (mut sums, mut rests) = ([_mm512_setzero_si512(); 5], [_mm512_setzero_si512(); 5]);
        for group in first..groups.min(first + base3::GROUPS_IN_I32) {
            for i in 0..base3::WORDS {
                // SAFETY: four words of 16 rows are there for each group. The prefetch is a hint, of an address that need not
                // exist.
                let mut bytes = unsafe {
                    let bytes = tile.as_ptr().add((base3::WORDS * group + i) * TILE_ROWS);
                    _mm_prefetch::<_MM_HINT_T0>(bytes.wrapping_add(PREFETCH).cast());
                    _mm512_loadu_si512(bytes.cast())
                };
                for (n, lane) in base3::lanes_of(i).into_iter().enumerate() {
                    // SAFETY: the lanes of 80 columns are there for each group.
                    let x = unsafe { x.as_ptr().add(4 * base3::CANONICAL * group + lane).read() };
                    let x = _mm512_set1_epi32(x.cast_signed());
                    sums[n] = _mm512_dpbusd_epi32(sums[n], bytes, x);
                    bytes = thrice(bytes);
                    rests[n] = _mm512_dpbusd_epi32(rests[n], bytes, x);
                }
            }
        }
        let add = |sums: [__m512i; 5]| sums.into_iter().fold(_mm512_setzero_si512(), |a, b| _mm512_add_epi32(a, b));
        total = _mm512_add_epi32(total, codes_of([add(sums), add(rests)]));
    }
    array(total)
}

/// `sum(code * x)` of `M` tiles for `T` tokens into `out`, `[tile][token][row]`. With two tiles and twelve tokens the sums take 24 of
/// the 32 registers, and each activation that is read serves 32 rows.
///
/// # Safety
/// The processor has AVX-512 F, BW and VNNI.
///
/// # Panics
/// When a tile is not 16 words, or `x` not `4 T` lanes, for each word of a row.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn dots<const M: usize, const T: usize>(
    tiles: [&[u32]; M],
    x: &[u32],
    out: &mut [[[i32; TILE_ROWS]; T]],
) {
    let words = x.len() / (4 * T);
    assert!(tiles.iter().all(|tile| tile.len() == TILE_ROWS * words) && x.len() == 4 * T * words, "lanes");
    assert!(out.len() >= M, "output");
    let mask = _mm512_set1_epi8(3);
    // By token, so that the sums of an activation stand together.
    let mut sums = [[_mm512_setzero_si512(); M]; T];
    for k in 0..words {
        // SAFETY: word `k` of 16 rows is there, in each tile.
        let mut bytes = tiles.map(|tile| unsafe { _mm512_loadu_si512(tile.as_ptr().add(TILE_ROWS * k).cast()) });
        for p in 0..4 {
            let codes = bytes.map(|bytes| _mm512_and_si512(bytes, mask));
            bytes = bytes.map(|bytes| _mm512_srli_epi16::<2>(bytes));
            for (t, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the lanes of `T` tokens are there for each plane of each word.
                let x = unsafe { x.as_ptr().add((4 * k + p) * T + t).read() };
                let x = _mm512_set1_epi32(x.cast_signed());
                for (sum, codes) in sums.iter_mut().zip(codes) {
                    *sum = _mm512_dpbusd_epi32(*sum, codes, x);
                }
            }
        }
    }
    for (t, sums) in sums.into_iter().enumerate() {
        for (out, sum) in out.iter_mut().zip(sums) {
            // SAFETY: there is room for 16 lanes.
            unsafe { _mm512_storeu_si512(out[t].as_mut_ptr().cast(), sum) };
        }
    }
}

/// Three times each byte; see [`super::avx2::thrice`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn thrice(bytes: __m512i) -> __m512i {
    let thrice: __m512i;
    // SAFETY: the instruction is there (`avx512bw`), and touches nothing but these registers.
    unsafe {
        asm!("vpaddb {thrice}, {bytes}, {bytes}", "vpaddb {thrice}, {thrice}, {bytes}", thrice = out(zmm_reg) thrice,
            bytes = in(zmm_reg) bytes, options(pure, nomem, nostack, preserves_flags));
    }
    thrice
}

/// The products of codes from those of bytes and those of what is left of them.
#[target_feature(enable = "avx512f")]
fn codes_of([sum, rest]: [__m512i; 2]) -> __m512i {
    let three = _mm512_add_epi32(_mm512_add_epi32(sum, sum), sum);
    _mm512_srai_epi32::<8>(_mm512_sub_epi32(three, rest))
}

#[target_feature(enable = "avx512f")]
fn array(sums: __m512i) -> [i32; TILE_ROWS] {
    let mut array = [0; TILE_ROWS];
    // SAFETY: there is room for 16 lanes.
    unsafe { _mm512_storeu_si512(array.as_mut_ptr().cast(), sums) };
    array
}

#[target_feature(enable = "avx512f,avx512bw")]
fn unpack(bytes: __m512i) -> [__m512i; 4] {
    let mask = _mm512_set1_epi8(3);
    [
        _mm512_and_si512(bytes, mask),
        _mm512_and_si512(_mm512_srli_epi16::<2>(bytes), mask),
        _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask),
        _mm512_and_si512(_mm512_srli_epi16::<6>(bytes), mask),
    ]
}
