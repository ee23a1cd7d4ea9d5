//! What is known of a tensor without reading it.

use crate::StorageType;

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// Canonical Hugging Face name, such as `model.layers.0.self_attn.q_proj.weight`; a tensor outside the name table
    /// keeps the name its file gives it.
    pub name: String,
    /// The name in the file.
    pub stored_name: String,
    /// How its numbers are stored.
    pub dtype: StorageType,
    /// Stored shape, outermost first: `[rows, cols]` of a matrix. A packed Hugging Face linear of N rows has
    /// `[ceil(N / 4), cols]` here.
    pub shape: Vec<usize>,
    /// Stored bytes.
    pub bytes: u64,
    /// First byte, counted from the start of its file.
    pub offset: u64,
    /// Index into [`Source::files`](crate::Source::files).
    pub file: usize,
    /// Set for the Q and K weights of a GGUF whose rotary pairs are interleaved: the number of heads. Row `h·D + 2j + s`
    /// of the file is row `h·D + s·D/2 + j` of the Hugging Face order (head `h` of width `D`, `s` 0 or 1). Floats and
    /// ternary matrices are given in Hugging Face order; raw bytes are as stored.
    pub interleaved_heads: Option<usize>,
}

impl TensorInfo {
    /// Number of stored elements.
    pub fn elements(&self) -> usize {
        // Cannot overflow: no type takes less than an eighth of a byte, and the bytes are in the file.
        self.shape.iter().product()
    }

    /// The stored shape as `(rows, cols)`; every dimension but the last counts as rows.
    pub fn rows_cols(&self) -> (usize, usize) {
        match self.shape.split_last() {
            Some((cols, outer)) => (outer.iter().product(), *cols),
            None => (1, 1),
        }
    }
}

/// The row of the file that holds row `row` of the Hugging Face order, for `rows` rows in `heads` interleaved heads.
pub(crate) fn stored_row(row: usize, rows: usize, heads: usize) -> usize {
    let width = rows / heads;
    let (head, within) = (row / width, row % width);
    let (half, pair) = (within / (width / 2), within % (width / 2));
    head * width + 2 * pair + half
}

#[cfg(test)]
mod tests {
    use super::stored_row;

    #[test]
    fn rotary_pairs_are_brought_back_together() {
        let order: Vec<usize> = (0..12).map(|row| stored_row(row, 12, 2)).collect();
        assert_eq!(order, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
