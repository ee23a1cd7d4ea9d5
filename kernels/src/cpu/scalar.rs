//! Int8 × 2-bit products in portable Rust.

use super::base3;
use super::tiles::TILE_ROWS;

/// `sum(code * x)` of 16 rows for `T` tokens: `[token][row]`.
///
/// # Panics
/// When `tile` is not 16 words, or `x` not `4 T` lanes, for each word of a row.
pub(crate) fn dots<const T: usize>(tile: &[u32], x: &[u32]) -> [[i32; TILE_ROWS]; T] {
    let mut sums = [[0i32; TILE_ROWS]; T];
    assert!(tile.len() / TILE_ROWS == x.len() / (4 * T), "lanes");
    for (words, x) in tile.chunks_exact(TILE_ROWS).zip(x.chunks_exact(4 * T)) {
        for (p, x) in x.chunks_exact(T).enumerate() {
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = x.to_le_bytes().map(|byte| i32::from(byte.cast_signed()));
                for (sum, word) in sums.iter_mut().zip(words) {
                    let codes = (word >> (2 * p)) & 0x0303_0303;
                    let codes = codes.to_le_bytes().map(i32::from);
                    *sum += codes[0] * x[0] + codes[1] * x[1] + codes[2] * x[2] + codes[3] * x[3];
                }
            }
        }
    }
    sums
}

/// `sum(code * x)` of 16 rows for one token, of a tile with five trits in a byte.
///
/// # Panics
/// When `tile` is not whole groups of 16 rows, or `x` not 20 lanes for each.
pub(crate) fn dense_dots(tile: &[u32], x: &[u32]) -> [i32; TILE_ROWS] {
    base3::check(tile, x);
    let mut sums = [0i32; TILE_ROWS];
    for (tile, x) in tile.chunks_exact(base3::WORDS * TILE_ROWS).zip(x.chunks_exact(4 * base3::CANONICAL)) {
        for (i, words) in tile.chunks_exact(TILE_ROWS).enumerate() {
            let lanes = base3::lanes_of(i).map(|lane| x[lane].to_le_bytes().map(|byte| i32::from(byte.cast_signed())));
            for (sum, word) in sums.iter_mut().zip(words) {
                let mut bytes = word.to_le_bytes().map(i32::from);
                for x in lanes {
                    for (byte, x) in bytes.iter_mut().zip(x) {
                        *sum += ((3 * *byte) >> 8) * x;
                        *byte = (3 * *byte) & 0xff;
                    }
                }
            }
        }
    }
    sums
}
