//! What the tests of this package share.

use bitnet_ternary::{Packing, Scale, TernaryMatrix};

/// Every packing.
pub const PACKINGS: [Packing; 11] = [
    Packing::HfPacked,
    Packing::I2S,
    Packing::I2SArm64,
    Packing::I2SFourRows,
    Packing::Tq1_0,
    Packing::Tq2_0,
    Packing::Iq2Bn,
    Packing::Iq2BnR4,
    Packing::Iq1Bn,
    Packing::Q2_0 { group: 64 },
    Packing::Q2_0 { group: 128 },
];

/// The test pattern of the worked examples: `((i*i + i/3) mod 3) - 1`.
pub fn pattern(count: usize) -> Vec<i8> {
    (0..count).map(|i| ((i * i + i / 3) % 3) as i8 - 1).collect()
}

/// The test pattern as a matrix with one scale.
pub fn pattern_matrix(rows: usize, cols: usize, scale: f32) -> TernaryMatrix {
    TernaryMatrix::from_trits(rows, cols, &pattern(rows * cols), Scale::Tensor(scale)).unwrap()
}

/// The bytes of a hexadecimal string, in which spaces mean nothing.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
