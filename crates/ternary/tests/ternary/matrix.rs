//! The canonical matrix: what it accepts and what it gives back.

use crate::common::{pattern, pattern_matrix};
use bitnet_ternary::{CODES_PER_WORD, Granularity, Scale, TernaryError, TernaryMatrix, words_per_row};
use proptest::prelude::*;

const ONE: Scale = Scale::Tensor(1.0);

#[test]
fn accessors_agree() {
    let trits = pattern(3 * 37);
    let matrix = TernaryMatrix::from_trits(3, 37, &trits, Scale::Row(vec![0.5, 1.0, 2.0])).unwrap();
    assert_eq!((matrix.rows(), matrix.cols(), matrix.words().len()), (3, 37, 3 * 3));
    assert_eq!(matrix.granularity(), Granularity::Row);
    assert_eq!(matrix.trits(), trits);
    for row in 0..3 {
        assert_eq!(matrix.row_trits(row).collect::<Vec<_>>(), trits[row * 37..][..37]);
        assert_eq!(matrix.row_words(row), &matrix.words()[row * 3..][..3]);
        for col in 0..37 {
            assert_eq!(matrix.trit(row, col), trits[row * 37 + col]);
            assert_eq!(matrix.to_f32()[row * 37 + col], f32::from(trits[row * 37 + col]) * [0.5, 1.0, 2.0][row]);
        }
    }
    let zeros = trits.iter().filter(|t| **t == 0).count();
    assert_eq!(matrix.zero_fraction(), zeros as f64 / trits.len() as f64);
}

#[test]
fn wrong_number_of_words() {
    let error = TernaryMatrix::from_words(2, 17, vec![0x5555_5555; 3], ONE).unwrap_err();
    assert_eq!(error, TernaryError::Length { what: "code words", rows: 2, cols: 17, expected: 4, found: 3 });
}

#[test]
fn code_3() {
    let mut words = vec![0x5555_5555; 4];
    words[3] |= 3 << 6;
    assert_eq!(TernaryMatrix::from_words(2, 32, words, ONE).unwrap_err(), TernaryError::BadCode { row: 1, col: 19 });
}

#[test]
fn padding_that_is_not_code_1() {
    for pad in [0, 2, 3u32] {
        let words = vec![0x5555_5555, (0x5555_5555 & !(3 << 30)) | pad << 30];
        assert_eq!(TernaryMatrix::from_words(2, 15, words, ONE).unwrap_err(), TernaryError::BadPadding { row: 1 });
    }
}

#[test]
fn values_that_are_no_trits() {
    for value in [2, -2, i8::MIN, i8::MAX] {
        let error = TernaryMatrix::from_trits(2, 3, &[0, 1, -1, 0, value, 1], ONE).unwrap_err();
        assert_eq!(error, TernaryError::NotATrit { row: 1, col: 1, value });
    }
}

#[test]
fn scales_of_the_wrong_number() {
    let wrong = [
        Scale::Row(vec![1.0; 3]),
        Scale::Row(vec![]),
        Scale::Group { size: 16, values: vec![1.0; 5] },
        Scale::Group { size: 64, values: vec![1.0] },
    ];
    for scale in wrong {
        let error = pattern_matrix(2, 40, 1.0).with_scale(scale).unwrap_err();
        assert!(matches!(error, TernaryError::Length { what: "scales", .. }), "{error}");
    }
    let empty = Scale::Group { size: 0, values: vec![] };
    assert_eq!(pattern_matrix(2, 40, 1.0).with_scale(empty), Err(TernaryError::EmptyGroup));
    // Two whole groups of 16 and one of 8 a row; and a group larger than the row.
    for (size, count) in [(16, 6), (1, 80), (64, 2), (usize::MAX, 2)] {
        assert!(pattern_matrix(2, 40, 1.0).with_scale(Scale::Group { size, values: vec![1.0; count] }).is_ok());
    }
}

#[test]
fn scales_that_are_none() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0] {
        let error = pattern_matrix(3, 4, 1.0).with_scale(Scale::Row(vec![1.0, 0.0, value])).unwrap_err();
        assert!(matches!(error, TernaryError::BadScale { index: 2, .. }), "{error}");
        assert!(TernaryMatrix::from_trits(1, 1, &[1], Scale::Tensor(value)).is_err());
    }
}

#[test]
fn permuting_rows_moves_their_scales() {
    let trits = pattern(4 * 20);
    let row = TernaryMatrix::from_trits(4, 20, &trits, Scale::Row(vec![1.0, 2.0, 3.0, 4.0])).unwrap();
    let values = (1..=8).map(|x| x as f32).collect();
    let group = row.clone().with_scale(Scale::Group { size: 16, values }).unwrap();
    let order = [2, 0, 3, 1];
    for matrix in [row, group, pattern_matrix(4, 20, 0.5)] {
        let weights = matrix.to_f32();
        let expected: Vec<f32> = order.iter().flat_map(|r| &weights[r * 20..][..20]).copied().collect();
        let permuted = matrix.permute_rows(|r| order[r]);
        assert_eq!(permuted.to_f32(), expected);
        assert_eq!(permuted.granularity(), matrix.granularity());
    }
}

proptest! {
    #[test]
    fn trits_come_back(rows in 1usize..6, cols in 1usize..70, seed in prop::collection::vec(-1i8..=1, 420)) {
        let trits = &seed[..rows * cols];
        let matrix = TernaryMatrix::from_trits(rows, cols, trits, Scale::Tensor(0.25)).unwrap();
        prop_assert_eq!(matrix.trits(), trits);
        prop_assert_eq!(words_per_row(cols) * CODES_PER_WORD - cols, (16 - cols % 16) % 16);
        let (rows, cols, words, scale) = matrix.clone().into_parts();
        prop_assert_eq!(TernaryMatrix::from_words(rows, cols, words, scale).unwrap(), matrix);
    }

    #[test]
    fn any_words_are_taken_or_refused(rows in 0usize..4, cols in 0usize..40, words in prop::collection::vec(any::<u32>(), 0..8)) {
        if let Ok(matrix) = TernaryMatrix::from_words(rows, cols, words, ONE) {
            prop_assert_eq!(TernaryMatrix::from_trits(rows, cols, &matrix.trits(), ONE).unwrap(), matrix);
        }
    }
}
