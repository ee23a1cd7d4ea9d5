//! Asking a checkpoint for everything that it can give.

use bitnet_format::{Checkpoint, StorageType};
use bitnet_ternary::TernaryMatrix;

/// Reads all tensors in every way there is. Refusals are fine.
pub(crate) fn everything(model: &Checkpoint) {
    let _ = (model.config(), model.notes(), model.tokenizer_files().map_err(one_line));
    model.metadata().to_json(3);
    for info in model.tensors() {
        let bytes = model.bytes(&info.name).expect("a tensor that is listed has bytes");
        assert_eq!(bytes.len() as u64, info.bytes);
        assert_eq!(model.shared_bytes(&info.name).expect("and can share them"), bytes);
        let floats = model.floats(&info.name).map_err(one_line).ok();
        if let Some(floats) = &floats {
            assert_eq!(floats.len(), info.elements());
        }
        if let (Some(linear), [rows, cols]) = (info.name.strip_suffix(".weight"), &info.shape[..]) {
            let rows = if info.dtype == StorageType::U8 { rows.saturating_mul(4) } else { *rows };
            if let Ok(matrix) = model.ternary(linear, rows, *cols).map_err(one_line) {
                valid(matrix);
            }
        }
        model.release(&info.name);
    }
}

/// Checks that a matrix is what its constructor would have let pass.
pub(crate) fn valid(matrix: TernaryMatrix) {
    let (rows, cols, words, scale) = matrix.into_parts();
    TernaryMatrix::from_words(rows, cols, words, scale).expect("a decoder gives valid matrices");
}

/// Looks at an error as a user would.
pub(crate) fn one_line(error: impl std::error::Error) {
    assert!(!error.to_string().is_empty());
}
