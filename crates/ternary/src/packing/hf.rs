//! Hugging Face packed `uint8`: the `weight` of a BitLinear in safetensors.
//!
//! A byte holds four rows of one column. They are not neighbours: with `R = ceil(rows / 4)`, byte `[r][k]` of the
//! stored `[R, cols]` tensor holds rows `r`, `r + R`, `r + 2R` and `r + 3R`, the first in the low bits.
//!
//! ```text
//!   bits     7:6       5:4       3:2      1:0
//!          row r+3R  row r+2R  row r+R   row r      of column k, in byte r * cols + k
//! ```
//!
//! If the rows are no multiple of 4, the places of rows that do not exist are written as 0 and not read.
//! The scale is a tensor of its own (`weight_scale`, which multiplies or divides depending on `linear_class`), so
//! decoding gives a scale of 1 and encoding leaves the matrix's scale out.
//!
//! Worked example, `t(0..32)` as 8 rows of 4 columns, so `R` = 2:
//!
//! ```text
//!   row 0  -1  0  0  0      row 4  -1 -1 -1  0
//!   row 1   1  1  1 -1      row 5   0  0  1  1      bytes  80 01 05 15
//!   row 2  -1 -1  0  0      row 6   1 -1 -1 -1             56 5a 6a a8
//!   row 3   0  1  1  1      row 7   0  0  0  1
//!
//!   0x80 = 10 00 00 00: column 0 of rows 6, 4, 2, 0 = +1 -1 -1 -1
//! ```
//!
//! ```
//! use bitnet_ternary::{Packing, Scale, TernaryMatrix};
//!
//! let t: Vec<i8> = (0..32).map(|i| ((i * i + i / 3) % 3) as i8 - 1).collect();
//! let matrix = TernaryMatrix::from_trits(8, 4, &t, Scale::Tensor(1.0))?;
//! let bytes = Packing::HfPacked.encode(&matrix)?;
//! assert_eq!(bytes, [0x80, 0x01, 0x05, 0x15, 0x56, 0x5a, 0x6a, 0xa8]);
//!
//! let code = |row: usize, col: usize| bytes[row % 2 * 4 + col] >> (2 * (row / 2)) & 3;
//! assert!((0..32).all(|i| code(i / 4, i % 4) as i8 - 1 == t[i]));
//! # Ok::<(), bitnet_ternary::TernaryError>(())
//! ```

use crate::crumbs;
use crate::fresh::zeroed_words;
use crate::wide::Wide;
use crate::{TernaryMatrix, words_per_row};

/// Codes in canonical order. `bytes` is `[ceil(rows / 4), cols]`.
pub(super) fn decode(bytes: &[u8], rows: usize, cols: usize) -> Vec<u32> {
    let per_row = words_per_row(cols);
    let quarter = rows.div_ceil(4) * per_row;
    // With room for the up to three rows that do not exist, which come last.
    let mut words = zeroed_words(4 * quarter);
    let (low, high) = words.split_at_mut(2 * quarter);
    let ((a, b), (c, d)) = (low.split_at_mut(quarter), high.split_at_mut(quarter));
    Split { bytes, cols, per_row, quarters: [a, b, c, d] }.run_widened();
    words.truncate(rows * per_row);
    words
}

/// The stored rows, and where the quarters of the matrix's rows go.
struct Split<'a> {
    bytes: &'a [u8],
    cols: usize,
    per_row: usize,
    quarters: [&'a mut [u32]; 4],
}

impl Wide for Split<'_> {
    #[inline(always)]
    fn run(self) {
        let [a, b, c, d] = self.quarters;
        for (r, row) in self.bytes.chunks_exact(self.cols).enumerate() {
            let at = r * self.per_row..(r + 1) * self.per_row;
            crumbs::split_row(row, [&mut a[at.clone()], &mut b[at.clone()], &mut c[at.clone()], &mut d[at]]);
        }
    }
}

/// Appends the `[ceil(rows / 4), cols]` bytes.
pub(super) fn encode(matrix: &TernaryMatrix, bytes: &mut Vec<u8>) {
    let quarter = matrix.rows().div_ceil(4);
    let absent = vec![0u32; words_per_row(matrix.cols())];
    for r in 0..quarter {
        let stored = [r, r + quarter, r + 2 * quarter, r + 3 * quarter];
        let words = stored.map(|row| if row < matrix.rows() { matrix.row_words(row) } else { &absent });
        crumbs::join_rows(words, matrix.cols(), bytes);
    }
}
