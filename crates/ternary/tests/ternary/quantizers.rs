//! The quantizers and the reference matmul, against worked examples and plain formulas.

use crate::common::{pattern, pattern_matrix};
use bitnet_ternary::quantize::{FLOOR, absmax_int8, absmean, already_ternary};
use bitnet_ternary::reference::{dot_i32, linear, matmul_i32};
use bitnet_ternary::{Granularity, Scale, TernaryError, TernaryMatrix};
use proptest::prelude::*;

const WEIGHTS: [f32; 8] = [0.5, -0.2, 0.05, -1.0, 0.3, 0.9, -0.4, 0.0];

#[test]
fn worked_example() {
    let matrix = absmean(&WEIGHTS, 2, 4, Granularity::Tensor).unwrap();
    assert_eq!(matrix.scale(), &Scale::Tensor(0.41875));
    assert_eq!(matrix.trits(), [1, 0, 0, -1, 1, 1, -1, 0]);

    let x = [1.0, -2.0, 0.5, 0.013];
    let mut codes = [0; 4];
    assert_eq!(absmax_int8(&x, &mut codes), 63.5);
    // 63.5 is a tie and goes to the even 64.
    assert_eq!(codes, [64, -127, 32, 1]);

    assert_eq!(matmul_i32(&codes, 1, &matrix), [63, -95]);
    let y = linear(&x, 1, &matrix);
    assert_eq!(y, [63.0 * (0.41875f32 / 63.5), -95.0 * (0.41875f32 / 63.5)]);
    assert!((y[0] - 0.41545).abs() < 5e-6 && (y[1] + 0.62648).abs() < 5e-6);
}

#[test]
fn absmean_ties_go_to_even() {
    // The mean is 1, so the halves are exact ties and 1.5 rounds to 2, which is clamped.
    let matrix = absmean(&[0.5, -0.5, 1.5, -1.5], 1, 4, Granularity::Tensor).unwrap();
    assert_eq!(matrix.scale(), &Scale::Tensor(1.0));
    assert_eq!(matrix.trits(), [0, 0, 1, -1]);
}

#[test]
fn absmax_ties_go_to_even() {
    let mut codes = [0; 6];
    assert_eq!(absmax_int8(&[127.0, 0.5, 1.5, 2.5, -0.5, -127.0], &mut codes), 1.0);
    assert_eq!(codes, [127, 0, 2, 2, 0, -127]);
}

#[test]
fn statistics_have_a_floor() {
    let matrix = absmean(&[0.0; 6], 2, 3, Granularity::Row).unwrap();
    assert_eq!(matrix.scale(), &Scale::Row(vec![FLOOR; 2]));
    assert_eq!(matrix.trits(), [0; 6]);
    let mut codes = [1; 2];
    assert_eq!(absmax_int8(&[0.0, 0.0], &mut codes), 127.0 / FLOOR);
    assert_eq!(codes, [0, 0]);
    absmax_int8(&[5e-6, -1e-30], &mut codes);
    assert_eq!(codes, [64, 0]);
}

#[test]
fn the_mean_is_accumulated_in_f64() {
    // In f32 the ones would be lost beside the first sum of 2^25.
    let mut w = vec![1.0f32; 1 << 12];
    w[0] = (1u32 << 25) as f32;
    let mean = ((1u64 << 25) + (1 << 12) - 1) as f64 / f64::from(1 << 12);
    assert_eq!(absmean(&w, 1, 1 << 12, Granularity::Tensor).unwrap().scale(), &Scale::Tensor(mean as f32));
}

#[test]
fn each_granularity_has_its_own_means() {
    let rows = absmean(&WEIGHTS, 2, 4, Granularity::Row).unwrap();
    assert_eq!(rows.scale(), &Scale::Row(vec![0.4375, 0.4]));
    // Groups of three leave one column at the end of each row.
    let groups = absmean(&WEIGHTS, 2, 4, Granularity::Group(3)).unwrap();
    let Scale::Group { size: 3, values } = groups.scale() else { panic!("{:?}", groups.scale()) };
    let expected = [0.25f32, 1.0, 1.6 / 3.0, FLOOR];
    assert!(values.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{values:?}");
    assert_eq!(groups.trits(), [1, -1, 0, -1, 1, 1, -1, 0]);
    assert_eq!(absmean(&WEIGHTS, 2, 4, Granularity::Group(0)), Err(TernaryError::EmptyGroup));
    let one = absmean(&WEIGHTS, 2, 4, Granularity::Group(usize::MAX)).unwrap();
    assert_eq!(one.trits(), rows.trits());
}

#[test]
fn absmean_names_the_weight_that_is_not_finite() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut w = WEIGHTS;
        w[6] = value;
        let error = absmean(&w, 2, 4, Granularity::Tensor).unwrap_err();
        assert!(matches!(error, TernaryError::NotFinite { index: 6, row: 1, col: 2, .. }), "{error}");
    }
    let extremes = absmean(&[f32::MAX, f32::MIN, f32::MAX, 1e-45], 2, 2, Granularity::Tensor).unwrap();
    assert_eq!(extremes.trits(), [1, -1, 1, 0]);
}

#[test]
fn absmean_refuses_shapes_that_do_not_fit() {
    assert!(matches!(absmean(&WEIGHTS, 3, 3, Granularity::Tensor), Err(TernaryError::Length { .. })));
    assert!(matches!(absmean(&[], 0, 3, Granularity::Row), Err(TernaryError::Empty { .. })));
    assert!(matches!(absmean(&[], usize::MAX, 9, Granularity::Row), Err(TernaryError::TooLarge { .. })));
}

#[test]
fn activations_that_are_not_finite_give_nan() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut codes = [7; 3];
        assert!(absmax_int8(&[1.0, value, 2.0], &mut codes).is_nan());
        assert_eq!(codes, [0; 3]);
        // The other token is not touched by it.
        let y = linear(&[1.0, value, 2.0, 1.0, 0.0, 1.0], 2, &pattern_matrix(2, 3, 1.0));
        assert!(y[..2].iter().all(|y| y.is_nan()) && y[2..].iter().all(|y| y.is_finite()), "{y:?}");
    }
}

#[test]
fn already_ternary_keeps_the_scale() {
    // No short fraction: any arithmetic on it would show. absmean would give two thirds of it.
    let scale = 0.123_456_79_f32;
    for scale in [scale, 1e-30, 1e30] {
        let matrix = pattern_matrix(4, 48, scale);
        assert_eq!(already_ternary(&matrix.to_f32(), 4, 48), Some(matrix));
    }
    let rows = pattern_matrix(4, 48, 1.0).with_scale(Scale::Row(vec![0.1, 0.2, scale, 0.4])).unwrap();
    assert_eq!(already_ternary(&rows.to_f32(), 4, 48), Some(rows));
    for size in [128, 64, 32] {
        let cols = 3 * size - 7;
        let values = (0..6).map(|i| scale + i as f32).collect();
        let groups = pattern_matrix(2, cols, 1.0).with_scale(Scale::Group { size, values }).unwrap();
        assert_eq!(already_ternary(&groups.to_f32(), 2, cols), Some(groups));
    }
}

#[test]
fn rows_of_zeros_do_not_hide_the_scale() {
    let mut trits = pattern(3 * 32);
    trits[32..64].fill(0);
    let scale = Scale::Row(vec![0.5, 0.0, 2.0]);
    let matrix = TernaryMatrix::from_trits(3, 32, &trits, scale).unwrap();
    assert_eq!(already_ternary(&matrix.to_f32(), 3, 32), Some(matrix));
}

#[test]
fn floats_are_not_taken_for_ternary() {
    let varied: Vec<f32> = (1..=64).map(|i| i as f32 * 0.37).collect();
    assert_eq!(already_ternary(&varied, 8, 8), None);
    // One weight a row: each row has one magnitude, which proves nothing.
    assert_eq!(already_ternary(&varied, 64, 1), None);
    // One non-zero a row proves no more, and neither do eight rows of two beside many of one.
    let mut diagonal = vec![0.0; 64 * 64];
    for (i, x) in varied.iter().enumerate() {
        diagonal[65 * i] = *x;
    }
    assert_eq!(already_ternary(&diagonal, 64, 64), None);
    for i in 0..9 {
        diagonal[64 * i + 63] = varied[i];
    }
    assert_eq!(already_ternary(&diagonal, 64, 64), None);
    // Too few to tell, and nothing to tell from.
    assert_eq!(already_ternary(&[1.0, -1.0, 0.0, 1.0], 2, 2), None);
    assert_eq!(already_ternary(&[0.0; 64], 8, 8), None);
    // Almost, by one last bit.
    let mut almost = pattern_matrix(4, 48, 0.1).to_f32();
    almost[100] = f32::from_bits(0.1f32.to_bits() + 1);
    assert_eq!(already_ternary(&almost, 4, 48), None);
}

#[test]
fn already_ternary_is_not_fooled_by_what_is_not_finite() {
    for value in [f32::NAN, f32::INFINITY] {
        assert_eq!(already_ternary(&[value; 64], 8, 8), None);
        let mut w = pattern_matrix(4, 48, 0.5).to_f32();
        w[0] = value;
        assert_eq!(already_ternary(&w, 4, 48), None);
    }
    assert_eq!(already_ternary(&[0.5; 64], 8, 9), None);
    assert_eq!(already_ternary(&[0.5; 64], usize::MAX, 64), None);
}

#[test]
fn grouped_epilogue_is_added_from_the_left() {
    let matrix = pattern_matrix(2, 40, 1.0);
    let values = vec![0.1, 0.7, 0.3, 1.1, 0.9, 0.5];
    let matrix = matrix.with_scale(Scale::Group { size: 16, values: values.clone() }).unwrap();
    let x: Vec<f32> = (0..40).map(|i| ((i * 7) % 11) as f32 - 5.3).collect();
    let mut codes = [0; 40];
    let sx = absmax_int8(&x, &mut codes);
    let expected: Vec<f32> = (0..2)
        .map(|row| {
            let dot = |from: usize, to: usize| -> i32 {
                (from..to).map(|k| i32::from(codes[k]) * i32::from(matrix.trit(row, k))).sum()
            };
            let s = &values[3 * row..];
            (dot(0, 16) as f32 * s[0] + dot(16, 32) as f32 * s[1] + dot(32, 40) as f32 * s[2]) / sx
        })
        .collect();
    assert_eq!(linear(&x, 1, &matrix), expected);
}

#[test]
fn row_scales_multiply_their_rows() {
    let matrix = pattern_matrix(3, 20, 1.0).with_scale(Scale::Row(vec![0.5, 3.0, 0.0])).unwrap();
    let x: Vec<f32> = (0..20).map(|i| i as f32 - 9.5).collect();
    let mut codes = [0; 20];
    let sx = absmax_int8(&x, &mut codes);
    let expected: Vec<f32> =
        [0.5, 3.0, 0.0].iter().enumerate().map(|(row, s)| dot_i32(&codes, &matrix, row) as f32 * (s / sx)).collect();
    assert_eq!(linear(&x, 1, &matrix), expected);
}

proptest! {
    #[test]
    fn the_matmul_is_the_sum_of_products(
        rows in 1usize..5,
        cols in 1usize..50,
        tokens in 0usize..4,
        trits in prop::collection::vec(-1i8..=1, 200),
        x in prop::collection::vec(any::<i8>(), 150),
    ) {
        let matrix = TernaryMatrix::from_trits(rows, cols, &trits[..rows * cols], Scale::Tensor(1.0)).unwrap();
        let product = matmul_i32(&x[..tokens * cols], tokens, &matrix);
        prop_assert_eq!(product.len(), tokens * rows);
        for token in 0..tokens {
            for row in 0..rows {
                let sum: i32 = (0..cols).map(|k| i32::from(x[token * cols + k]) * i32::from(trits[row * cols + k])).sum();
                prop_assert_eq!(product[token * rows + row], sum);
            }
        }
    }

    #[test]
    fn activations_come_back_within_half_a_step(x in prop::collection::vec(-1e6f32..1e6, 1..40)) {
        let mut codes = vec![0; x.len()];
        let sx = absmax_int8(&x, &mut codes);
        for (code, x) in codes.iter().zip(&x) {
            prop_assert!((f32::from(*code) - x * sx).abs() <= 0.5);
            prop_assert!(*code != i8::MIN);
        }
    }

    #[test]
    fn absmean_is_its_formula(w in prop::collection::vec(-3f32..3.0, 60), group in 1usize..25) {
        let matrix = absmean(&w, 3, 20, Granularity::Group(group)).unwrap();
        for row in 0..3 {
            for col in 0..20 {
                let start = col / group * group;
                let part = &w[row * 20 + start..row * 20 + (start + group).min(20)];
                let mean = part.iter().map(|x| f64::from(x.abs())).sum::<f64>() / part.len() as f64;
                let scale = matrix.scale().at(row, col, 20);
                prop_assert!((f64::from(scale) - mean.max(1e-5)).abs() <= mean * 1e-7);
                let trit = (w[row * 20 + col] * (1.0 / scale)).round_ties_even().clamp(-1.0, 1.0);
                prop_assert_eq!(f32::from(matrix.trit(row, col)), trit);
            }
        }
    }
}
