//! Block formats against values computed by the `gguf` Python package (0.17 and 0.19, with numpy):
//!
//! ```python
//! def block(n, scales):
//!     b = np.array([(i*i*7 + i*13 + 5) % 256 for i in range(n)], dtype=np.uint8)
//!     for at, v in scales: b[at:at+2] = np.frombuffer(np.float16(v).tobytes(), dtype=np.uint8)
//!     return b
//! y = gguf.quants.dequantize(block(n, scales).reshape(1, -1), qtype).reshape(-1)
//! wsum = (y.astype(np.float64) * ((np.arange(len(y)) * 37) % 101)).sum()
//! ```
//!
//! The scales are powers of two, so every number here is exact.

use bitnet_format::BlockFormat;
use bitnet_format::blocks::QuantizeError;
use half::f16;

fn block(len: usize, scales: &[(usize, f32)]) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| ((i * i * 7 + i * 13 + 5) % 256) as u8).collect();
    for (at, scale) in scales {
        bytes[*at..at + 2].copy_from_slice(&f16::from_f32(*scale).to_le_bytes());
    }
    bytes
}

struct Golden {
    format: BlockFormat,
    scales: &'static [(usize, f32)],
    first: [f32; 8],
    last: [f32; 4],
    sum: f64,
    weighted_sum: f64,
}

const GOLDEN: [Golden; 7] = [
    Golden {
        format: BlockFormat::Q8_0,
        scales: &[(0, 0.5)],
        first: [29.5, 53.5, -43.5, -5.5, 39.5, -36.5, 22.5, -39.5],
        last: [19.5, -16.5, -45.5, 60.5],
        sum: 80.0,
        weighted_sum: -6898.0,
    },
    Golden {
        format: BlockFormat::Q4_0,
        scales: &[(0, -0.25)],
        first: [-0.75, -0.75, -0.25, 0.75, -1.75, 0.25, -1.25, 1.75],
        last: [1.75, -1.5, -1.25, -1.0],
        sum: -1.25,
        weighted_sum: -83.75,
    },
    Golden {
        format: BlockFormat::Q5_0,
        scales: &[(0, -0.5)],
        first: [-7.5, -3.5, 1.5, -0.5, -1.5, -1.5, 7.5, 1.5],
        last: [-6.0, -6.5, -7.5, -1.0],
        sum: -38.5,
        weighted_sum: -2417.5,
    },
    Golden {
        format: BlockFormat::Q3_K,
        scales: &[(108, 0.0625)],
        first: [-0.6875, -0.6875, -2.0625, -2.0625, -0.6875, -0.6875, -2.0625, -2.0625],
        last: [0.0, -1.25, -0.9375, 0.625],
        sum: -18.0625,
        weighted_sum: -1284.5625,
    },
    Golden {
        format: BlockFormat::IQ4_NL,
        scales: &[(0, 0.125)],
        first: [4.75, 4.75, 1.625, -4.375, 14.125, -1.25, 8.625, -13.0],
        last: [-13.0, 11.125, 8.625, 6.625],
        sum: 18.0,
        weighted_sum: 1198.625,
    },
    Golden {
        format: BlockFormat::Q6_K,
        scales: &[(208, 0.0625)],
        first: [40.5625, 25.8125, -99.5625, -99.5625, 25.8125, 40.5625, -114.3125, -84.8125],
        last: [-58.75, -20.5625, 70.5, -73.4375],
        sum: -416.5,
        weighted_sum: 20917.8125,
    },
    Golden {
        format: BlockFormat::Q4_K,
        scales: &[(0, 0.5), (2, 0.25)],
        first: [91.25, 173.25, 214.25, 214.25, 173.25, 91.25, 296.25, 132.25],
        last: [8.0, 266.5, 196.0, 125.5],
        sum: 38576.0,
        weighted_sum: 1927422.5,
    },
];

#[test]
fn every_format_gives_the_values_of_the_gguf_package() {
    for golden in &GOLDEN {
        let format = golden.format;
        let mut y = vec![f32::NAN; format.block_elems()];
        format.dequantize_row(&block(format.block_bytes(), golden.scales), &mut y).unwrap();
        assert_eq!(y[..8], golden.first, "{format:?}");
        assert_eq!(y[y.len() - 4..], golden.last, "{format:?}");
        assert_eq!(y.iter().map(|y| f64::from(*y)).sum::<f64>(), golden.sum, "{format:?}");
        let weight = |i: usize| (i * 37 % 101) as f64;
        let weighted: f64 = y.iter().enumerate().map(|(i, y)| f64::from(*y) * weight(i)).sum();
        assert_eq!(weighted, golden.weighted_sum, "{format:?}");
    }
}

#[test]
fn blocks_of_a_row_follow_each_other() {
    let one = block(34, &[(0, 0.5)]);
    let mut y = [0.0; 64];
    BlockFormat::Q8_0.dequantize_row(&[one.clone(), one].concat(), &mut y).unwrap();
    assert_eq!(y[..32], y[32..]);
}

#[test]
fn lengths_that_do_not_match_are_refused() {
    for golden in &GOLDEN {
        let (elems, bytes) = (golden.format.block_elems(), golden.format.block_bytes());
        for (bytes, elems) in [(bytes - 1, elems), (bytes, elems - 1), (bytes, 2 * elems), (0, 1)] {
            let error = golden.format.dequantize_row(&vec![0; bytes], &mut vec![0.0; elems]).unwrap_err();
            assert!(error.to_string().contains(&format!("{:?}", golden.format)));
        }
    }
    assert_eq!(BlockFormat::Q8_0.row_bytes(usize::MAX / 32 * 32), None);
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let mut out = Vec::new();
    let mut encode = |format: BlockFormat, values: &[f32]| format.quantize_row(values, &mut out);
    assert_eq!(encode(BlockFormat::Q4_0, &[0.0; 32]), Err(QuantizeError::NotWritten(BlockFormat::Q4_0)));
    let length = QuantizeError::Length { format: BlockFormat::Q6_K, values: 32 };
    assert_eq!(encode(BlockFormat::Q6_K, &[0.0; 32]), Err(length));
    for bad in [f32::NAN, f32::INFINITY, 65_505.0] {
        let mut values = [0.5; 32];
        values[3] = bad;
        assert!(matches!(encode(BlockFormat::Q8_0, &values), Err(QuantizeError::Range(_))), "{bad}");
    }
    encode(BlockFormat::Q8_0, &[65_504.0; 64]).unwrap();
    assert_eq!(out.len(), 2 * 34);
}
