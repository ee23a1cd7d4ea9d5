//! Int8 × 2-bit products on WebAssembly's vectors of 128 bits. They have no product of bytes; of 16-bit factors they have one
//! that adds in pairs. So codes and activations are taken as those of even bytes and those of odd ones, and all sums are of
//! 32 bits at once.

use std::arch::wasm32::*;

use super::base3;
use super::tiles::TILE_ROWS;

/// Rows in one vector.
const ROWS: usize = 4;

/// Vectors of a tile.
const VECTORS: usize = TILE_ROWS / ROWS;

/// `sum(code * x)` of 16 rows for `T` tokens: `[token][row]`.
///
/// # Panics
/// When `tile` is not 16 words, or `x` not `4 T` lanes, for each word of a row.
pub(crate) fn dots<const T: usize>(tile: &[u32], x: &[u32]) -> [[i32; TILE_ROWS]; T] {
    let words = x.len() / (4 * T);
    assert!(tile.len() == TILE_ROWS * words && x.len() == 4 * T * words, "lanes");
    let mask = u16x8_splat(3);
    let mut sums = [[i32x4_splat(0); VECTORS]; T];
    for (tile, x) in tile.as_chunks::<TILE_ROWS>().0.iter().zip(x.chunks_exact(4 * T)) {
        let mut bytes = load(tile);
        for x in x.chunks_exact(T) {
            let even = bytes.map(|bytes| v128_and(bytes, mask));
            let odd = bytes.map(|bytes| v128_and(u16x8_shr(bytes, 8), mask));
            bytes = bytes.map(|bytes| u16x8_shr(bytes, 2));
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = halves(*x);
                for ((sum, even), odd) in sums.iter_mut().zip(even).zip(odd) {
                    *sum = add_products(*sum, [even, odd], x);
                }
            }
        }
    }
    sums.map(array)
}

/// `sum(code * x)` of 16 rows for one token, of a tile with five trits in a byte: each leaves its byte when that is multiplied
/// by three, see [`base3`].
///
/// # Panics
/// When `tile` is not whole groups of 16 rows, or `x` not 20 lanes for each.
pub(crate) fn dense_dots(tile: &[u32], x: &[u32]) -> [i32; TILE_ROWS] {
    base3::check(tile, x);
    let (low, three) = (u16x8_splat(0xff), u16x8_splat(3));
    let mut sums = [i32x4_splat(0); VECTORS];
    let groups = tile.as_chunks::<{ base3::WORDS * TILE_ROWS }>().0.iter().zip(x.chunks_exact(4 * base3::CANONICAL));
    for (words, x) in groups {
        for (i, words) in words.as_chunks::<TILE_ROWS>().0.iter().enumerate() {
            let mut bytes = load(words).map(|bytes| [v128_and(bytes, low), u16x8_shr(bytes, 8)]);
            for lane in base3::lanes_of(i) {
                let x = halves(x[lane]);
                for (sum, bytes) in sums.iter_mut().zip(&mut bytes) {
                    let thrice = bytes.map(|bytes| i16x8_mul(bytes, three));
                    *sum = add_products(*sum, thrice.map(|bytes| u16x8_shr(bytes, 8)), x);
                    *bytes = thrice.map(|bytes| v128_and(bytes, low));
                }
            }
        }
    }
    array(sums)
}

fn load(words: &[u32; TILE_ROWS]) -> [v128; VECTORS] {
    let four = |v: usize| &words[ROWS * v..][..ROWS];
    std::array::from_fn(|v| {
        let [a, b, c, d] = *four(v).first_chunk().expect("four words");
        u32x4(a, b, c, d)
    })
}

/// The four activations of a lane for every row, those of even bytes and those of odd ones.
fn halves(x: u32) -> [v128; 2] {
    let x = u32x4_splat(x);
    [i16x8_shr(i16x8_shl(x, 8), 8), i16x8_shr(x, 8)]
}

/// `sum` and the products of four codes in each lane.
fn add_products(sum: v128, codes: [v128; 2], x: [v128; 2]) -> v128 {
    i32x4_add(sum, i32x4_add(i32x4_dot_i16x8(codes[0], x[0]), i32x4_dot_i16x8(codes[1], x[1])))
}

fn array(sums: [v128; VECTORS]) -> [i32; TILE_ROWS] {
    let mut array = [0; TILE_ROWS];
    for (out, sum) in array.as_chunks_mut::<ROWS>().0.iter_mut().zip(sums) {
        *out = [
            i32x4_extract_lane::<0>(sum),
            i32x4_extract_lane::<1>(sum),
            i32x4_extract_lane::<2>(sum),
            i32x4_extract_lane::<3>(sum),
        ];
    }
    array
}
