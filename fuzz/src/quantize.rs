//! Any floats through the quantizers.

use bitnet_ternary::{Granularity, TernaryError, quantize};

use crate::{Seeds, read, take};

/// The input: columns, a byte, then f32s, row by row.
pub fn run(mut data: &[u8]) {
    let [cols] = take(&mut data);
    let weights: Vec<f32> = data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let cols = usize::from(cols).max(1);
    let rows = weights.len() / cols;
    let weights = &weights[..rows * cols];
    let is_finite = weights.iter().all(|x| x.is_finite());
    for granularity in [Granularity::Tensor, Granularity::Row, Granularity::Group(16), Granularity::Group(128)] {
        match quantize::absmean(weights, rows, cols, granularity) {
            Ok(matrix) => {
                assert!(is_finite);
                assert_eq!(matrix.granularity(), granularity);
                // A trit never has the other sign than its weight.
                assert!(matrix.trits().iter().zip(weights).all(|(t, w)| f32::from(*t) * w >= 0.0));
                read::valid(matrix);
            }
            Err(error) => {
                assert!(rows == 0 || matches!(error, TernaryError::NotFinite { .. }) && !is_finite, "{error}");
            }
        }
    }
    if let Some(matrix) = quantize::already_ternary(weights, rows, cols) {
        assert_eq!(matrix.to_f32(), weights, "what is ternary already is kept");
        read::valid(matrix);
    }
    if let Some(matrix) = quantize::nearly_ternary(weights, rows, cols) {
        assert!(matrix.trits().iter().zip(weights).all(|(t, w)| f32::from(*t) * w >= 0.0));
        read::valid(matrix);
    }
    let mut codes = vec![1; weights.len()];
    let factor = quantize::absmax_int8(weights, &mut codes);
    if is_finite {
        assert!(codes.iter().all(|code| *code > i8::MIN));
        assert!(factor > 0.0);
    } else {
        assert!(factor.is_nan() && codes.iter().all(|code| *code == 0));
    }
}

/// Weights that are ternary, blurred and neither.
pub fn seeds() -> Seeds {
    let trit = |i: usize| ((i * i + i / 3) % 3) as f32 - 1.0;
    type Weight = fn(f32, usize) -> f32;
    let weights: [(&str, Weight); 3] = [
        ("ternary", |t, _| 0.5 * t),
        ("blurred", |t, i| t * (1.0 - (i % 5) as f32 / 40.0)),
        ("master", |t, i| t * (i % 7) as f32 / 7.0 + 0.01),
    ];
    let seed = |(name, weight): (&str, Weight)| {
        let weights = (0..4 * 32).flat_map(|i| weight(trit(i), i).to_le_bytes());
        (name.to_string(), std::iter::once(32).chain(weights).collect())
    };
    weights.into_iter().map(seed).collect()
}
