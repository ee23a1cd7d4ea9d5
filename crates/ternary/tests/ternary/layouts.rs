//! Each packing against its layout spelled out one element at a time, over ragged shapes, and back again.

use crate::common::PACKINGS;
use bitnet_ternary::{Packing, Scale, TernaryMatrix};
use proptest::prelude::*;

/// Byte and bit of the two-bit code of one element, or `None` where five trits share a byte.
fn place(packing: Packing, rows: usize, cols: usize, row: usize, col: usize) -> Option<(usize, usize)> {
    let flat = row * cols + col;
    Some(match packing {
        Packing::HfPacked => {
            let quarter = rows.div_ceil(4);
            (row % quarter * cols + col, 2 * (row / quarter))
        }
        Packing::I2S => (flat / 128 * 32 + flat % 32, 6 - 2 * (flat % 128 / 32)),
        Packing::I2SArm64 => (flat / 64 * 16 + flat % 16, 6 - 2 * (flat % 64 / 16)),
        Packing::I2SFourRows => (row / 4 * cols + col, 6 - 2 * (row % 4)),
        Packing::Tq2_0 => (flat / 256 * 66 + flat % 256 / 128 * 32 + flat % 32, 2 * (flat % 128 / 32)),
        Packing::Iq2Bn => (row * (4 + cols / 4) + 4 + col / 64 * 16 + col % 16, 2 * (col % 64 / 16)),
        Packing::Iq2BnR4 => {
            let group = row / 4 * (16 + cols) + 16 + col / 64 * 64;
            (group + col % 64 / 16 * 16 + row % 4 * 4 + col % 4, 2 * (col % 16 / 4))
        }
        Packing::Q2_0 { group } => (flat / group * (2 + group / 4) + 2 + flat % group / 4, 2 * (flat % 4)),
        _ => return None,
    })
}

/// The least rows and columns of which a shape has to be a multiple.
fn steps(packing: Packing) -> (usize, usize) {
    match packing {
        Packing::HfPacked => (1, 1),
        // A multiple of 128 (or 64) in all, whatever the columns: the rows make up for it.
        Packing::I2S => (128, 1),
        Packing::I2SArm64 => (64, 1),
        Packing::I2SFourRows => (4, 1),
        Packing::Tq1_0 | Packing::Tq2_0 => (1, 256),
        Packing::Iq2Bn | Packing::Iq1Bn => (1, 64),
        Packing::Iq2BnR4 => (4, 64),
        Packing::Q2_0 { group } => (1, group),
        _ => unreachable!("a packing without steps"),
    }
}

/// A packing, a shape that it holds, and trits.
fn tensors() -> impl Strategy<Value = (Packing, usize, usize, Vec<i8>)> {
    (prop::sample::select(&PACKINGS[..]), 1usize..=9, 1usize..=70)
        .prop_map(|(packing, m, n)| {
            let (rows, cols) = steps(packing);
            match packing {
                // Either many rows of a few odd columns, or few rows of a half or a whole block.
                Packing::I2S if n % 2 == 0 => (packing, 2 * m, 64 * (n / 8 + 1)),
                Packing::I2SArm64 if n % 2 == 0 => (packing, 4 * m, 16 * (n / 2)),
                _ if cols > 1 => (packing, rows * m, cols * (n % 4 + 1)),
                _ => (packing, rows * m.min(if rows > 4 { 2 } else { 9 }), n),
            }
        })
        .prop_flat_map(|(packing, rows, cols)| {
            (Just(packing), Just(rows), Just(cols), prop::collection::vec(-1i8..=1, rows * cols))
        })
}

proptest! {
    #[test]
    fn every_element_is_where_the_layout_says((packing, rows, cols, trits) in tensors()) {
        let matrix = TernaryMatrix::from_trits(rows, cols, &trits, Scale::Tensor(0.5)).unwrap();
        let bytes = packing.encode(&matrix).unwrap();
        prop_assert_eq!(bytes.len(), packing.packed_len(rows, cols).unwrap());
        for row in 0..rows {
            for col in 0..cols {
                if let Some((byte, bit)) = place(packing, rows, cols, row, col) {
                    let code = (bytes[byte] >> bit) & 3;
                    prop_assert_eq!(code as i8 - 1, trits[row * cols + col], "{} at {},{}", packing, row, col);
                }
            }
        }
    }

    #[test]
    fn decoding_undoes_encoding((packing, rows, cols, trits) in tensors()) {
        let matrix = TernaryMatrix::from_trits(rows, cols, &trits, Scale::Tensor(0.5)).unwrap();
        let bytes = packing.encode(&matrix).unwrap();
        let decoded = packing.decode(&bytes, rows, cols).unwrap();
        // Through the constructor that checks everything, padding included.
        let (rows, cols, words, scale) = decoded.clone().into_parts();
        prop_assert!(TernaryMatrix::from_words(rows, cols, words, scale).is_ok());
        prop_assert_eq!(decoded.words(), matrix.words());
        if packing != Packing::HfPacked && trits.iter().any(|t| *t != 0) {
            prop_assert_eq!(decoded.scale(), matrix.scale());
        }
        prop_assert_eq!(packing.encode(&decoded).unwrap(), bytes);
    }

    #[test]
    fn weights_survive_block_scales(
        packing in prop::sample::select(&[Packing::Tq1_0, Packing::Tq2_0, Packing::Q2_0 { group: 128 }, Packing::Q2_0 { group: 64 }][..]),
        trits in prop::collection::vec(-1i8..=1, 2 * 512),
        exponents in prop::collection::vec(-8i32..8, 2 * 2),
        empty in 0usize..8,
    ) {
        let mut trits = trits;
        if let Some(block) = trits.chunks_mut(256).nth(empty) {
            block.fill(0);
        }
        let values = exponents.into_iter().map(|e| 2f32.powi(e)).collect();
        let scale = Scale::Group { size: 256, values };
        let matrix = TernaryMatrix::from_trits(2, 512, &trits, scale).unwrap();
        let decoded = packing.decode(&packing.encode(&matrix).unwrap(), 2, 512).unwrap();
        prop_assert_eq!(decoded.to_f32(), matrix.to_f32());
    }
}
