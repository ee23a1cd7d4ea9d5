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

use crate::crumbs;
use crate::{TernaryMatrix, words_per_row};

/// Codes in canonical order. `bytes` is `[ceil(rows / 4), cols]`.
pub(super) fn decode(bytes: &[u8], rows: usize, cols: usize) -> Vec<u32> {
    let (quarter, per_row) = (rows.div_ceil(4), words_per_row(cols));
    let mut words = vec![0u32; rows * per_row];
    // Where the rows r + q * quarter are, for each q; beyond the last row there are none.
    let mut quarters = words.chunks_mut(quarter * per_row);
    let mut quarters: [&mut [u32]; 4] = std::array::from_fn(|_| quarters.next().unwrap_or_default());
    for (r, row) in bytes.chunks_exact(cols).enumerate() {
        let mut outputs =
            quarters.each_mut().map(|rows| rows.get_mut(r * per_row..(r + 1) * per_row).unwrap_or_default());
        unpack_row(row, &mut outputs);
    }
    words
}

/// Splits one stored row into the rows it holds; an empty output is a row that does not exist.
fn unpack_row(row: &[u8], outputs: &mut [&mut [u32]; 4]) {
    let (chunks, rest) = row.as_chunks::<16>();
    if let [a, b, c, d] = outputs
        && [&*b, &*c, &*d].iter().all(|output| output.len() == a.len())
    {
        // The usual case, free of bounds checks.
        for ((((chunk, a), b), c), d) in
            chunks.iter().zip(a.iter_mut()).zip(b.iter_mut()).zip(c.iter_mut()).zip(d.iter_mut())
        {
            [*a, *b, *c, *d] = crumbs::planes(chunk);
        }
    } else {
        for (i, chunk) in chunks.iter().enumerate() {
            put(outputs, i, crumbs::planes(chunk));
        }
    }
    if !rest.is_empty() {
        put(outputs, chunks.len(), crumbs::planes_padded(rest));
    }
}

fn put(outputs: &mut [&mut [u32]; 4], i: usize, planes: [u32; 4]) {
    for (output, plane) in outputs.iter_mut().zip(planes) {
        if let Some(word) = output.get_mut(i) {
            *word = plane;
        }
    }
}

/// Appends the `[ceil(rows / 4), cols]` bytes.
pub(super) fn encode(matrix: &TernaryMatrix, bytes: &mut Vec<u8>) {
    let quarter = matrix.rows().div_ceil(4);
    for r in 0..quarter {
        let row_end = bytes.len() + matrix.cols();
        for i in 0..words_per_row(matrix.cols()) {
            let planes = [0, 1, 2, 3].map(|q| {
                let row = r + q * quarter;
                if row < matrix.rows() { matrix.row_words(row)[i] } else { 0 }
            });
            let used = (row_end - bytes.len()).min(16);
            bytes.extend_from_slice(&crumbs::join(planes)[..used]);
        }
    }
}
