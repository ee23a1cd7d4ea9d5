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
}

impl WeightOrder {
    /// Reorders the words of a matrix of `width` words a row from `self` to `to`, in place.
    ///
    /// # Panics
    /// When `words` is not whole rows.
    pub fn convert(self, to: WeightOrder, words: &mut [u32], width: usize) {
        if self == to || width == 0 {
            return;
        }
        assert!(words.len().is_multiple_of(width), "whole rows");
        // Moving a word costs about as much as some multiply-adds.
        let work = 16 * words.len();
        super::parallel::chunks(words, TILE_ROWS * width, work, |_, tile| {
            let rows = tile.len() / width;
            let from = tile.to_vec();
            match to {
                WeightOrder::Tiles => transpose(&from, width, rows, tile),
                WeightOrder::Rows => transpose(&from, rows, width, tile),
            }
        });
    }
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
    fn a_tile_has_word_k_of_its_rows_side_by_side_and_goes_back() {
        for (rows, width) in [(16, 1), (1, 5), (40, 3), (33, 40), (7, 17)] {
            let words: Vec<u32> = (0..rows * width).map(|i| i as u32 * 2_654_435_761).collect();
            let mut tiled = words.clone();
            WeightOrder::Rows.convert(WeightOrder::Tiles, &mut tiled, width);
            for (i, word) in words.iter().enumerate() {
                let (row, k) = (i / width, i % width);
                let first = row / TILE_ROWS * TILE_ROWS;
                let lanes = TILE_ROWS.min(rows - first);
                assert_eq!(tiled[first * width + k * lanes + row - first], *word);
            }
            WeightOrder::Tiles.convert(WeightOrder::Rows, &mut tiled, width);
            assert_eq!(tiled, words);
        }
    }
}
