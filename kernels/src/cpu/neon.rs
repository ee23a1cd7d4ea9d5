//! Int8 × 2-bit products on NEON: alone, with the `sdot` instruction, and with `smmla`.

use std::arch::aarch64::*;
use std::arch::asm;

use super::base3;
use super::tiles::TILE_ROWS;

/// Rows in one vector.
const ROWS: usize = 4;

/// Vectors of a tile.
const VECTORS: usize = TILE_ROWS / ROWS;

/// Words whose products fit the 16-bit sums: one adds at most 4 planes × 2 × 128 = 1,024 to the magnitude of a lane.
const WORDS_IN_I16: usize = 31;

/// The same of groups of 80 columns, of which one adds at most 20 × 2 × 128 = 5,120.
const GROUPS_IN_I16: usize = 6;

/// `sum(code * x)` of 16 rows for `T` tokens: `[token][row]`.
///
/// # Safety
/// None beyond NEON, which every AArch64 processor has.
///
/// # Panics
/// When `tile` is not 16 words, or `x` not `4 T` lanes, for each word of a row.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn dots<const T: usize>(tile: &[u32], x: &[u32]) -> [[i32; TILE_ROWS]; T] {
    let mut out = [[0; TILE_ROWS]; T];
    // Each row takes half a register for each token, so many tokens take the tile in two passes.
    if T <= 2 {
        of_rows::<T, VECTORS>(tile, x, 0, &mut out)
    } else {
        for first in [0, 2] {
            of_rows::<T, 2>(tile, x, first, &mut out);
        }
    }
    out
}

/// [`dots`] of the rows in `V` vectors of the tile from `first` on.
#[inline]
#[target_feature(enable = "neon")]
fn of_rows<const T: usize, const V: usize>(tile: &[u32], x: &[u32], first: usize, out: &mut [[i32; TILE_ROWS]; T]) {
    let words = check::<T>(tile, x);
    assert!(first + V <= VECTORS, "vectors of a tile");
    let mut totals = [[vdupq_n_s32(0); V]; T];
    for from in (0..words).step_by(WORDS_IN_I16) {
        // Rows 0 and 1, and rows 2 and 3, of a vector in four lanes each.
        let mut sums = [[[vdupq_n_s16(0); 2]; V]; T];
        for k in from..words.min(from + WORDS_IN_I16) {
            // SAFETY: word `k` of 16 rows is there.
            let codes: [_; V] = std::array::from_fn(|v| unsafe { unpack(load(tile, k, first + v)) });
            for p in 0..4 {
                for (t, sums) in sums.iter_mut().enumerate() {
                    let x = vreinterpretq_s8_u32(vdupq_n_u32(x[(4 * k + p) * T + t]));
                    for ([low, high], codes) in sums.iter_mut().zip(&codes) {
                        *low = vmlal_s8(*low, vget_low_s8(codes[p]), vget_low_s8(x));
                        *high = vmlal_high_s8(*high, codes[p], x);
                    }
                }
            }
        }
        for (totals, sums) in totals.iter_mut().zip(sums) {
            totals.iter_mut().zip(sums).for_each(|(total, sums)| *total = widened(*total, sums));
        }
    }
    for (out, totals) in out.iter_mut().zip(totals) {
        store(totals, &mut out[ROWS * first..]);
    }
}

/// `sum(code * x)` of 16 rows for one token, of a tile with five trits in a byte: bytes are compared with a third and two
/// thirds, see [`base3`].
///
/// # Safety
/// As [`dots`].
///
/// # Panics
/// When `tile` is not whole groups of 16 rows, or `x` not 20 lanes for each.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn dense_dots(tile: &[u32], x: &[u32]) -> [i32; TILE_ROWS] {
    let groups = base3::check(tile, x);
    let (one, two) = (vdupq_n_u8(86), vdupq_n_u8(171));
    let mut totals = [vdupq_n_s32(0); VECTORS];
    for from in (0..groups).step_by(GROUPS_IN_I16) {
        let mut sums = [[vdupq_n_s16(0); 2]; VECTORS];
        for group in from..groups.min(from + GROUPS_IN_I16) {
            for i in 0..base3::WORDS {
                // SAFETY: four words of 16 rows are there for each group.
                let mut bytes: [_; VECTORS] =
                    std::array::from_fn(|v| unsafe { load(tile, base3::WORDS * group + i, v) });
                for lane in base3::lanes_of(i) {
                    let x = vreinterpretq_s8_u32(vdupq_n_u32(x[4 * base3::CANONICAL * group + lane]));
                    for ([low, high], bytes) in sums.iter_mut().zip(&mut bytes) {
                        // Each comparison that holds is -1, so this is the code with its sign turned.
                        let codes = vreinterpretq_s8_u8(vaddq_u8(vcgeq_u8(*bytes, one), vcgeq_u8(*bytes, two)));
                        *low = vmlsl_s8(*low, vget_low_s8(codes), vget_low_s8(x));
                        *high = vmlsl_high_s8(*high, codes, x);
                        *bytes = thrice(*bytes);
                    }
                }
            }
        }
        totals.iter_mut().zip(sums).for_each(|(total, sums)| *total = widened(*total, sums));
    }
    let mut out = [0; TILE_ROWS];
    store(totals, &mut out);
    out
}

/// [`dots`] with one `sdot` for 16 products.
///
/// # Safety
/// The processor has dotprod.
///
/// # Panics
/// As [`dots`].
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn dots_dotprod<const T: usize>(tile: &[u32], x: &[u32]) -> [[i32; TILE_ROWS]; T] {
    let words = check::<T>(tile, x);
    let mut sums = [[vdupq_n_s32(0); VECTORS]; T];
    for k in 0..words {
        // SAFETY: word `k` of 16 rows is there.
        let codes: [_; VECTORS] = std::array::from_fn(|v| unsafe { unpack(load(tile, k, v)) });
        let x = &x[4 * T * k..][..4 * T];
        for p in 0..4 {
            for (t, sums) in sums.iter_mut().enumerate() {
                let at = T * p + t;
                // SAFETY: there are `4 T` lanes, a multiple of four.
                let x = unsafe { vld1q_u8(x.as_ptr().add(at / 4 * 4).cast()) };
                for (sum, codes) in sums.iter_mut().zip(&codes) {
                    *sum = sdot_lane(*sum, codes[p], x, at % 4);
                }
            }
        }
    }
    sums.map(|sums| {
        let mut out = [0; TILE_ROWS];
        store(sums, &mut out);
        out
    })
}

/// [`dots_dotprod`] for one token. Codes stay where they are in a byte, but for the highest, so that only they are shifted;
/// the sums of the others are 1, 4 and 16 times too large.
///
/// # Safety
/// The processor has dotprod.
///
/// # Panics
/// As [`dots`].
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn dots_of_one_dotprod(tile: &[u32], x: &[u32]) -> [[i32; TILE_ROWS]; 1] {
    let words = check::<1>(tile, x);
    let masks = [3, 12, 48].map(|mask| vdupq_n_u8(mask));
    let mut sums = [[vdupq_n_s32(0); 3]; VECTORS];
    for k in 0..words {
        // SAFETY: there are four lanes for each word.
        let x = unsafe { vld1q_u8(x.as_ptr().add(4 * k).cast()) };
        for (v, sums) in sums.iter_mut().enumerate() {
            // SAFETY: word `k` of 16 rows is there.
            let bytes = unsafe { load(tile, k, v) };
            for (p, (sum, mask)) in sums.iter_mut().zip(masks).enumerate() {
                *sum = sdot_lane(*sum, vreinterpretq_s8_u8(vandq_u8(bytes, mask)), x, p);
            }
            sums[0] = sdot_lane(sums[0], vreinterpretq_s8_u8(vshrq_n_u8::<6>(bytes)), x, 3);
        }
    }
    let mut out = [0; TILE_ROWS];
    store(sums.map(|[a, b, c]| vaddq_s32(a, vaddq_s32(vshrq_n_s32::<2>(b), vshrq_n_s32::<4>(c)))), &mut out);
    [out]
}

/// [`dense_dots`] with `sdot`: the products of the bytes and of what is left of them, see [`base3`]. Bytes are taken as signed,
/// 128 less than they are, and three times that has it still; so trits come out, from which codes are made again.
///
/// # Safety
/// The processor has dotprod.
///
/// # Panics
/// As [`dense_dots`].
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn dense_dots_dotprod(tile: &[u32], x: &[u32]) -> [i32; TILE_ROWS] {
    let groups = base3::check(tile, x);
    let (sign, ones) = (vdupq_n_u8(0x80), vdupq_n_s8(1));
    let (mut totals, mut of_x) = ([vdupq_n_s32(0); VECTORS], vdupq_n_s32(0));
    for from in (0..groups).step_by(base3::GROUPS_IN_I32) {
        let (mut sums, mut rests) = ([vdupq_n_s32(0); VECTORS], [vdupq_n_s32(0); VECTORS]);
        for group in from..groups.min(from + base3::GROUPS_IN_I32) {
            // SAFETY: the lanes of 80 columns, five vectors, are there for each group.
            let x: [_; base3::CANONICAL] =
                std::array::from_fn(|i| unsafe { vld1q_u8(x.as_ptr().add(4 * (base3::CANONICAL * group + i)).cast()) });
            x.iter().for_each(|x| of_x = sdot(of_x, ones, vreinterpretq_s8_u8(*x)));
            for i in 0..base3::WORDS {
                for v in 0..VECTORS {
                    // SAFETY: four words of 16 rows are there for each group.
                    let mut bytes = veorq_u8(unsafe { load(tile, base3::WORDS * group + i, v) }, sign);
                    for lane in base3::lanes_of(i) {
                        sums[v] = sdot_lane(sums[v], vreinterpretq_s8_u8(bytes), x[lane / 4], lane % 4);
                        bytes = thrice(bytes);
                        rests[v] = sdot_lane(rests[v], vreinterpretq_s8_u8(bytes), x[lane / 4], lane % 4);
                    }
                }
            }
        }
        for ((total, sum), rest) in totals.iter_mut().zip(sums).zip(rests) {
            let difference = vsubq_s32(vaddq_s32(vaddq_s32(sum, sum), sum), rest);
            *total = vaddq_s32(*total, vshrq_n_s32::<8>(difference));
        }
    }
    let of_x = vdupq_n_s32(vaddvq_s32(of_x));
    let mut out = [0; TILE_ROWS];
    store(totals.map(|total| vaddq_s32(total, of_x)), &mut out);
    out
}

/// [`dots`] with one `smmla` for 32 products, of two rows and two tokens each.
///
/// # Safety
/// The processor has dotprod and i8mm.
///
/// # Panics
/// As [`dots`].
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(crate) unsafe fn dots_i8mm<const T: usize>(tile: &[u32], x: &[u32]) -> [[i32; TILE_ROWS]; T] {
    let mut out = [[0; TILE_ROWS]; T];
    match T {
        8 => [0, 2].iter().for_each(|first| of_pairs::<T, 4, 2>(tile, x, *first, &mut out)),
        4 => of_pairs::<T, 2, VECTORS>(tile, x, 0, &mut out),
        _ => of_pairs::<T, 1, VECTORS>(tile, x, 0, &mut out),
    }
    out
}

/// [`dots_i8mm`] for `P` pairs of tokens, of the rows in `V` vectors of the tile from `first` on.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn of_pairs<const T: usize, const P: usize, const V: usize>(
    tile: &[u32],
    x: &[u32],
    first: usize,
    out: &mut [[i32; TILE_ROWS]; T],
) {
    let words = check::<T>(tile, x);
    assert!(T == 2 * P && first + V <= VECTORS, "pairs of tokens, and vectors of a tile");
    // Of rows 0 and 1, and of rows 2 and 3, of a vector: [row 0, token 0], [row 0, token 1], [row 1, token 0], [row 1, token 1].
    let mut sums = [[[vdupq_n_s32(0); 2]; P]; V];
    for k in 0..words {
        // SAFETY: word `k` of 16 rows is there.
        let codes: [_; V] = std::array::from_fn(|v| unsafe { unpack(load(tile, k, first + v)) });
        for planes in [0, 2] {
            // Eight columns of two tokens: those of one plane, and those of the next.
            let x: [_; P] = std::array::from_fn(|pair| {
                let plane = |p: usize| &x[(4 * k + p) * T + 2 * pair..][..2];
                // SAFETY: a plane has the lanes of two tokens.
                let [a, b] = [planes, planes + 1].map(|p| unsafe { vld1_u32(plane(p).as_ptr()) });
                vreinterpretq_s8_u32(vcombine_u32(vzip1_u32(a, b), vzip2_u32(a, b)))
            });
            for (sums, codes) in sums.iter_mut().zip(&codes) {
                let [a, b] = [codes[planes], codes[planes + 1]].map(|codes| vreinterpretq_u32_s8(codes));
                let rows = [vzip1q_u32(a, b), vzip2q_u32(a, b)].map(|rows| vreinterpretq_s8_u32(rows));
                for (sums, x) in sums.iter_mut().zip(x) {
                    sums.iter_mut().zip(rows).for_each(|(sum, rows)| *sum = smmla(*sum, rows, x));
                }
            }
        }
    }
    for (v, sums) in sums.into_iter().enumerate() {
        for (pair, [low, high]) in sums.into_iter().enumerate() {
            let at = ROWS * (first + v);
            store([vuzp1q_s32(low, high)], &mut out[2 * pair][at..]);
            store([vuzp2q_s32(low, high)], &mut out[2 * pair + 1][at..]);
        }
    }
}

/// Words of a row.
fn check<const T: usize>(tile: &[u32], x: &[u32]) -> usize {
    let words = x.len() / (4 * T);
    assert!(tile.len() == TILE_ROWS * words && x.len() == 4 * T * words, "lanes");
    words
}

/// Word `k` of the four rows in vector `v`.
///
/// # Safety
/// Word `k` of 16 rows is there, and there are four vectors.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(tile: &[u32], k: usize, v: usize) -> uint8x16_t {
    // SAFETY: the caller knows.
    unsafe { vld1q_u8(tile.as_ptr().add(TILE_ROWS * k + ROWS * v).cast()) }
}

/// The four planes of codes of 16 bytes.
#[inline]
#[target_feature(enable = "neon")]
fn unpack(bytes: uint8x16_t) -> [int8x16_t; 4] {
    let mask = vdupq_n_u8(3);
    [
        vreinterpretq_s8_u8(vandq_u8(bytes, mask)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<2>(bytes), mask)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<4>(bytes), mask)),
        vreinterpretq_s8_u8(vshrq_n_u8::<6>(bytes)),
    ]
}

/// Three times each byte, of which eight bits are kept.
#[inline]
#[target_feature(enable = "neon")]
fn thrice(bytes: uint8x16_t) -> uint8x16_t {
    vaddq_u8(vaddq_u8(bytes, bytes), bytes)
}

/// `total` and the sums of the four rows whose 16-bit sums are in two halves.
#[inline]
#[target_feature(enable = "neon")]
fn widened(total: int32x4_t, [low, high]: [int16x8_t; 2]) -> int32x4_t {
    vaddq_s32(total, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))
}

/// # Panics
/// When there is no room for `V` times four sums.
#[inline]
#[target_feature(enable = "neon")]
fn store<const V: usize>(sums: [int32x4_t; V], out: &mut [i32]) {
    for (out, sum) in out[..ROWS * V].chunks_exact_mut(ROWS).zip(sums) {
        // SAFETY: there is room for four.
        unsafe { vst1q_s32(out.as_mut_ptr(), sum) };
    }
}

/// `sum[i] + a[4i..4i+4] · b[4i..4i+4]`; the intrinsics are not stable in every compiler that we support.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction is there (`dotprod`), and touches nothing but these registers.
    unsafe {
        asm!("sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b", sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// `sum[i] + a[4i..4i+4] · b[4 lane..4 lane + 4]`. The lane is a constant where this is inlined.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot_lane(mut sum: int32x4_t, a: int8x16_t, b: uint8x16_t, lane: usize) -> int32x4_t {
    macro_rules! of {
        ($lane:literal) => {
            // SAFETY: the instruction is there (`dotprod`), and touches nothing but these registers.
            unsafe {
                asm!(concat!("sdot {sum:v}.4s, {a:v}.16b, {b:v}.4b[", $lane, "]"), sum = inout(vreg) sum,
                    a = in(vreg) a, b = in(vreg) b, options(pure, nomem, nostack, preserves_flags));
            }
        };
    }
    match lane {
        0 => of!(0),
        1 => of!(1),
        2 => of!(2),
        _ => of!(3),
    }
    sum
}

/// `sum` and the products of two rows of eight (`a`) with two rows of eight (`b`).
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn smmla(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction is there (`i8mm`), and touches nothing but these registers.
    unsafe {
        asm!("smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b", sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}
