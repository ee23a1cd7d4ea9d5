//! Each packing against bytes worked out or written elsewhere.

use crate::common::{PACKINGS, hex, pattern, pattern_matrix};
use bitnet_ternary::packing::q2_0;
use bitnet_ternary::{Packing, Scale, TernaryError, TernaryMatrix};

/// Decodes to the pattern under `scale`, and encodes back to the same bytes.
#[track_caller]
fn both_ways(packing: Packing, bytes: &[u8], rows: usize, cols: usize, scale: f32) {
    let decoded = packing.decode(bytes, rows, cols).unwrap();
    assert_eq!(decoded.trits(), pattern(rows * cols), "{packing}");
    assert_eq!(decoded.scale(), &Scale::Tensor(scale), "{packing}");
    assert_eq!(packing.encode(&decoded).unwrap(), bytes, "{packing}");
}

/// I2_S's end: the scale and 28 bytes of nothing.
fn i2s_tail(scale: f32) -> Vec<u8> {
    let mut tail = vec![0; 32];
    tail[..4].copy_from_slice(&scale.to_le_bytes());
    tail
}

#[test]
fn canonical_words() {
    // Codes 0 1 1 1 2 2 2 0 0 0 1 1 1 2 2 2, the first in the low bits, then 0 0 and fourteen times code 1.
    let matrix = pattern_matrix(1, 18, 1.0);
    assert_eq!(matrix.words(), [0xa950_2a54, 0x5555_5550]);
}

#[test]
fn hf_packed() {
    both_ways(Packing::HfPacked, &hex("80 01 05 15 56 5a 6a a8"), 8, 4, 1.0);
}

#[test]
fn hf_packed_with_a_partial_last_quarter() {
    // Five rows of one column, -1 0 0 0 1: byte r holds rows r, r + 2 and r + 4, and what is above stays 0.
    let bytes = [0b00_10_01_00, 0b00_00_01_01];
    both_ways(Packing::HfPacked, &bytes, 5, 1, 1.0);
    // What other writers leave in the places of absent rows is not read.
    let decoded = Packing::HfPacked.decode(&[0b11_10_01_00, 0b11_11_01_01], 5, 1).unwrap();
    assert_eq!(decoded.trits(), pattern(5));
}

#[test]
fn i2s() {
    let bytes = Packing::I2S.encode(&pattern_matrix(1, 128, 0.75)).unwrap();
    assert_eq!(bytes[..8], hex("26 64 44 48 89 99 91 12"));
    assert_eq!(bytes[32..], i2s_tail(0.75));
    both_ways(Packing::I2S, &bytes, 1, 128, 0.75);
}

#[test]
fn i2s_blocks_take_no_notice_of_rows() {
    // The same 384 elements whatever the shape, also where rows begin in the middle of a block or of a word.
    let bytes = Packing::I2S.encode(&pattern_matrix(3, 128, 2.0)).unwrap();
    for (rows, cols) in [(1, 384), (2, 192), (6, 64), (8, 48), (16, 24), (32, 12), (128, 3), (384, 1)] {
        both_ways(Packing::I2S, &bytes, rows, cols, 2.0);
    }
}

#[test]
fn i2s_padding_means_nothing() {
    let mut bytes = Packing::I2S.encode(&pattern_matrix(1, 128, 0.75)).unwrap();
    bytes[36..].fill(0xff);
    assert_eq!(Packing::I2S.decode(&bytes, 1, 128).unwrap(), pattern_matrix(1, 128, 0.75));
}

#[test]
fn i2s_arm() {
    let bytes = Packing::I2SArm64.encode(&pattern_matrix(1, 64, 0.75)).unwrap();
    assert_eq!(bytes[..8], hex("09 4a 42 52 90 94 a4 25"));
    assert_eq!(bytes[16..], i2s_tail(0.75));
    both_ways(Packing::I2SArm64, &bytes, 1, 64, 0.75);
}

#[test]
fn i2s_four_rows() {
    let bytes = [hex("21 62 66 46"), i2s_tail(0.75)].concat();
    both_ways(Packing::I2SFourRows, &bytes, 4, 4, 0.75);
}

// The two blocks below are what gguf-py 0.19.0 writes:
//
//   python3 -c "
//   import numpy as np, gguf
//   t = np.array([(i*i + i//3) % 3 - 1 for i in range(256)], dtype=np.float32) * np.float32(0.5)
//   for q in (gguf.GGMLQuantizationType.TQ1_0, gguf.GGMLQuantizationType.TQ2_0):
//       print(gguf.quants.quantize(t, q).tobytes().hex())"

#[test]
fn tq1_0() {
    let block = hex("4a99616bc3decb23414a99616bc3decb23414a99616bc3decb23414a99616bc3
                     465018705d7bcad3ee465018705d7bca db33203d 0038");
    both_ways(Packing::Tq1_0, &block, 1, 256, 0.5);
}

#[test]
fn tq2_0() {
    let block = hex("9819112162664684889819112162664684889819112162664684889819112162
                     1121626646848898191121626646848898191121626646848898191121626646 0038");
    both_ways(Packing::Tq2_0, &block, 1, 256, 0.5);
}

/// A block of `len` bytes, of which the first `codes` have one value and the rest, the scale, is zero.
fn zeros(len: usize, codes: usize, value: u8) -> Vec<u8> {
    let mut block = vec![0; len];
    block[..codes].fill(value);
    block
}

#[test]
fn a_block_of_zeros_has_scale_zero_and_takes_the_tensors() {
    // gguf-py's blocks for 256 zeros: every code 1, d = 0.
    for (packing, zeros) in [(Packing::Tq1_0, zeros(54, 52, 0x80)), (Packing::Tq2_0, zeros(66, 64, 0x55))] {
        let mut zeros = zeros;
        if packing == Packing::Tq1_0 {
            // Four trits and no fifth: ceil(256 * 120 / 243).
            zeros[48..52].fill(0x7f);
        }
        let some = packing.encode(&pattern_matrix(1, 256, 0.5)).unwrap();
        let mut trits = vec![0; 256];
        trits.extend(pattern(256));
        let matrix = TernaryMatrix::from_trits(2, 256, &trits, Scale::Tensor(0.5)).unwrap();
        let bytes = [zeros.clone(), some].concat();
        assert_eq!(packing.encode(&matrix).unwrap(), bytes, "{packing}");
        assert_eq!(packing.decode(&bytes, 2, 256).unwrap(), matrix, "{packing}");
        assert_eq!(packing.decode(&zeros, 1, 256).unwrap().scale(), &Scale::Tensor(0.0), "{packing}");
    }
}

#[test]
fn scale_zero_beside_other_trits_is_kept_apart() {
    // d = 0 makes these weights zero, which the other block's scale would not.
    let mut bytes = Packing::Tq2_0.encode(&pattern_matrix(2, 256, 0.5)).unwrap();
    bytes[64..66].fill(0);
    let decoded = Packing::Tq2_0.decode(&bytes, 2, 256).unwrap();
    assert_eq!(decoded.scale(), &Scale::Group { size: 256, values: vec![0.0, 0.5] });
    assert!(decoded.to_f32()[..256].iter().all(|w| *w == 0.0));
}

#[test]
fn different_block_scales_are_kept() {
    let scale = Scale::Group { size: 256, values: vec![0.5, 0.25, 2.0, 1.0] };
    let matrix = pattern_matrix(2, 512, 1.0).with_scale(scale).unwrap();
    for packing in [Packing::Tq1_0, Packing::Tq2_0] {
        let bytes = packing.encode(&matrix).unwrap();
        assert_eq!(packing.decode(&bytes, 2, 512).unwrap(), matrix, "{packing}");
    }
}

#[test]
fn q2_0_blocks() {
    let codes = hex("54 2a 50 a9 40 a5 02 95 0a 54 2a 50 a9 40 a5 02");
    let block = [hex("00 38"), codes].concat();
    both_ways(Packing::Q2_0 { group: 64 }, &block, 1, 64, 0.5);

    let large = Packing::Q2_0 { group: 128 }.encode(&pattern_matrix(1, 128, 0.5)).unwrap();
    assert_eq!(large.len(), 34);
    assert_eq!(large[..18], block);
    both_ways(Packing::Q2_0 { group: 128 }, &large, 1, 128, 0.5);
}

#[test]
fn q2_0_with_the_fourth_level_is_not_ternary() {
    let mut bytes = Packing::Q2_0 { group: 64 }.encode(&pattern_matrix(2, 64, 0.5)).unwrap();
    bytes[18 + 2 + 5] |= 0b11_00;
    let error = Packing::Q2_0 { group: 64 }.decode(&bytes, 2, 64).unwrap_err();
    assert_eq!(error, TernaryError::PackedCode { packing: Packing::Q2_0 { group: 64 }, row: 1, col: 21 });
    assert!(error.to_string().contains("not ternary"), "{error}");
}

#[test]
fn rows_of_q2_0_as_floats() {
    for group in [64, 128] {
        let scale = Scale::Group { size: group, values: (1..=4 * 256 / group).map(|i| i as f32 / 8.0).collect() };
        let matrix = pattern_matrix(4, 256, 1.0).with_scale(scale).unwrap();
        let mut bytes = Packing::Q2_0 { group }.encode(&matrix).unwrap();
        let row_bytes = bytes.len() / 4;
        let mut row = [f32::NAN; 256];
        for (bytes, expected) in bytes.chunks_exact(row_bytes).zip(matrix.to_f32().chunks_exact(256)) {
            q2_0::dequantize_row(bytes, group, &mut row);
            assert_eq!(row, expected, "groups of {group}");
        }
        // The fourth level, which a trit has not: element 1 of the first block.
        bytes[2] |= 0b11_00;
        q2_0::dequantize_row(&bytes[..row_bytes], group, &mut row);
        assert_eq!((row[1], row[0], row[4]), (0.25, -0.125, 0.125));
    }
}

#[test]
fn iq2_bn() {
    let row = [0.5f32.to_le_bytes().to_vec(), hex("60 a1 81 85 06 16 1a 58 68 60 a1 81 85 06 16 1a")].concat();
    both_ways(Packing::Iq2Bn, &row, 1, 64, 0.5);
}

#[test]
fn iq2_bn_r4() {
    let codes = hex("48899991899991129991122291122226 64444889444889994889999189999112
                     22266444266444486444488944488999 91122226122226642226644426644448");
    // The worked bytes have one scale for all the rows; each place is checked by having four.
    let group = |scales: [f32; 4]| [scales.map(f32::to_le_bytes).concat(), codes.clone()].concat();
    both_ways(Packing::Iq2BnR4, &group([0.5; 4]), 4, 64, 0.5);
    let scales = [0.5, 1.0, 2.0, 4.0];
    let decoded = Packing::Iq2BnR4.decode(&group(scales), 4, 64).unwrap();
    assert_eq!(decoded.scale(), &Scale::Row(scales.to_vec()));
    assert_eq!(Packing::Iq2BnR4.encode(&decoded).unwrap(), group(scales));
}

#[test]
fn iq1_bn() {
    let row = hex("00 38  d4 09 f2 72 54 7c 09 f2 58 54 7c 1c 12");
    both_ways(Packing::Iq1Bn, &row, 1, 64, 0.5);

    let zeros = TernaryMatrix::from_trits(1, 64, &[0; 64], Scale::Tensor(0.0)).unwrap();
    let bytes = Packing::Iq1Bn.encode(&zeros).unwrap();
    assert_eq!(bytes, hex("00 00  80 80 80 80 80 80 80 80 80 80 80 80 2b"));
    assert_eq!(Packing::Iq1Bn.decode(&bytes, 1, 64).unwrap(), zeros);
}

#[test]
fn row_scales_are_kept_where_they_differ() {
    let matrix = pattern_matrix(4, 64, 1.0).with_scale(Scale::Row(vec![0.5, 1.0, 0.25, 2.0])).unwrap();
    for packing in [Packing::Iq2Bn, Packing::Iq2BnR4, Packing::Iq1Bn] {
        let bytes = packing.encode(&matrix).unwrap();
        assert_eq!(packing.decode(&bytes, 4, 64).unwrap(), matrix, "{packing}");
    }
}

#[test]
fn f16_scales_are_the_nearest() {
    let third = 1.0 / 3.0;
    for packing in PACKINGS {
        let matrix = pattern_matrix(4, 256, third);
        let decoded = packing.decode(&packing.encode(&matrix).unwrap(), 4, 256).unwrap();
        let expected = match packing {
            Packing::HfPacked => 1.0,
            Packing::Tq1_0 | Packing::Tq2_0 | Packing::Iq1Bn | Packing::Q2_0 { .. } => 0.333_251_95,
            _ => third,
        };
        assert_eq!(decoded.scale(), &Scale::Tensor(expected), "{packing}");
    }
}
