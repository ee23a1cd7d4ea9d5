//! The order of packed words that the kernels stream: sixteen rows side by side.
//!
//! A packed row is a line of 32-bit words, 16 codes each. The kernels work on 16 rows at once, each in a 32-bit lane of
//! its own, so the words of 16 rows are interleaved; what was a block of 16 rows stays where it was:
//!
//! ```text
//! rows      row 0: w00 w01 w02 ..   row 1: w10 w11 w12 ..   ...   row 15: wF0 wF1 wF2 ..
//! tile      w00 w10 w20 .. wF0      w01 w11 w21 .. wF1      ...
//! ```
//!
//! One 64-byte vector is then word `k` of 16 rows. Shifted right by 0, 2, 4 and 6 bits and masked, it gives four vectors
//! of codes, and byte `j` of a lane in plane `p` belongs to column `16 k + 4 j + p`. Every lane is multiplied by the same
//! four activations, so there is no shuffle, and a sum never leaves its lane. Rows that do not fill a tile, at the end of
//! the matrix, are interleaved in the same way with fewer lanes.

use super::{base3, parallel};

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;

/// How the words of a packed matrix lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum WeightOrder {
    /// Row by row: the canonical order, the one that is saved.
    #[default]
    Rows,
    /// Sixteen rows side by side, the order of the native CPU kernels.
    Tiles,
    /// The same with five trits in a byte, see `base3.rs`: a fifth less to read, and more to compute.
    DenseTiles,
}

impl WeightOrder {
    /// 32-bit words of a row of `cols` columns.
    pub fn words(self, cols: usize) -> usize {
        match self {
            WeightOrder::Rows | WeightOrder::Tiles => cols.div_ceil(16),
            WeightOrder::DenseTiles => base3::width(cols),
        }
    }

    /// Reorders the words of a matrix with rows of `cols` columns from `self` to `to`, in place where the size stays.
    ///
    /// # Panics
    /// When `words` is not whole rows.
    pub fn convert(self, to: WeightOrder, words: Vec<u32>, cols: usize) -> Vec<u32> {
        let width = self.words(cols);
        if self == to || width == 0 {
            return words;
        }
        assert!(words.len().is_multiple_of(width), "whole rows");
        match (self, to) {
            (WeightOrder::Rows, WeightOrder::Tiles) => interleave(words, width, |from, width, rows, to| {
                transpose(from, width, rows, to);
            }),
            (WeightOrder::Tiles, WeightOrder::Rows) => interleave(words, width, |from, width, rows, to| {
                transpose(from, rows, width, to);
            }),
            (WeightOrder::Tiles, WeightOrder::DenseTiles) => repack(&words, width, to.words(cols), base3::pack),
            (WeightOrder::DenseTiles, WeightOrder::Tiles) => repack(&words, width, to.words(cols), base3::unpack),
            // The way from any order to any other leads over the usual tiles.
            _ => WeightOrder::Tiles.convert(to, self.convert(WeightOrder::Tiles, words, cols), cols),
        }
    }
}

/// Moving a word costs about as much as so many multiply-adds.
const WORK: usize = 16;

/// Writes each tile of `words` anew from a copy of it: `f(from, width, rows, to)`.
fn interleave(mut words: Vec<u32>, width: usize, f: impl Fn(&[u32], usize, usize, &mut [u32]) + Sync) -> Vec<u32> {
    let work = WORK * words.len();
    parallel::chunks(&mut words, TILE_ROWS * width, work, |_, tile| {
        let from = tile.to_vec();
        f(&from, width, tile.len() / width, tile);
    });
    words
}

/// The rows of each tile in words of another size: `f(from, to, stride)` for each.
fn repack(words: &[u32], width: usize, new_width: usize, f: impl Fn(&[u32], &mut [u32], usize) + Sync) -> Vec<u32> {
    let rows = words.len() / width;
    let mut new = vec![0; rows * new_width];
    parallel::chunks(&mut new, TILE_ROWS * new_width, WORK * words.len(), |tile, new| {
        let rows = new.len() / new_width;
        let old = &words[tile * TILE_ROWS * width..][..rows * width];
        (0..rows).for_each(|lane| f(&old[lane..], &mut new[lane..], rows));
    });
    new
}

/// `to[c * rows + r] = from[r * columns + c]`.
fn transpose(from: &[u32], columns: usize, rows: usize, to: &mut [u32]) {
    const BLOCK: usize = 16;
    for c0 in (0..columns).step_by(BLOCK) {
        for r0 in (0..rows).step_by(BLOCK) {
            let (r1, c1) = (rows.min(r0 + BLOCK), columns.min(c0 + BLOCK));
            for c in c0..c1 {
                for r in r0..r1 {
                    to[c * rows + r] = from[r * columns + c];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_comes_back_from_every_other() {
        let orders = [WeightOrder::Rows, WeightOrder::Tiles, WeightOrder::DenseTiles];
        for (rows, cols) in [(16, 80), (33, 100), (5, 16), (50, 2560)] {
            let code = |i: usize| (i * i + i / 7) as u32 % 3;
            let word = |k: usize| (0..16).map(|j| code(16 * k + j) << (2 * j)).sum();
            let words: Vec<u32> = (0..rows * WeightOrder::Rows.words(cols)).map(word).collect();
            for (a, b) in orders.iter().flat_map(|a| orders.map(|b| (*a, b))) {
                let there = WeightOrder::Rows.convert(a, words.clone(), cols);
                assert_eq!(there.len(), rows * a.words(cols));
                assert_eq!(b.convert(WeightOrder::Rows, a.convert(b, there, cols), cols), words, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn a_tile_has_word_k_of_its_rows_side_by_side_and_goes_back() {
        for (rows, width) in [(16, 1), (1, 5), (40, 3), (33, 40), (7, 17)] {
            let words: Vec<u32> = (0..rows * width).map(|i| (i as u32).wrapping_mul(2_654_435_761)).collect();
            let tiled = WeightOrder::Rows.convert(WeightOrder::Tiles, words.clone(), 16 * width);
            for (i, word) in words.iter().enumerate() {
                let (row, k) = (i / width, i % width);
                let first = row / TILE_ROWS * TILE_ROWS;
                let lanes = TILE_ROWS.min(rows - first);
                assert_eq!(tiled[first * width + k * lanes + row - first], *word);
            }
            assert_eq!(WeightOrder::Tiles.convert(WeightOrder::Rows, tiled, 16 * width), words);
        }
    }
}
