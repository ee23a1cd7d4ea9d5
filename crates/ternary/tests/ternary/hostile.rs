//! Input that is wrong, one test an attack: an error that names what is wrong, never a panic.

use crate::common::{PACKINGS, pattern, pattern_matrix};
use bitnet_ternary::{MAX_COLS, Packing, Scale, TernaryError, TernaryMatrix};
use proptest::prelude::*;

#[test]
fn huge_shapes() {
    let huge = [
        (usize::MAX, usize::MAX),
        (usize::MAX, 1),
        (1, usize::MAX),
        (usize::MAX / 2, 256),
        (usize::MAX / 16, 16),
        (1 << 40, 1 << 24),
        (1, MAX_COLS + 1),
    ];
    for (rows, cols) in huge {
        let too_large = TernaryError::TooLarge { rows, cols };
        for packing in PACKINGS {
            assert_eq!(packing.packed_len(rows, cols), Err(too_large.clone()), "{packing}");
            assert_eq!(packing.decode(&[0; 64], rows, cols), Err(too_large.clone()), "{packing}");
        }
        assert_eq!(TernaryMatrix::from_words(rows, cols, vec![0], Scale::Tensor(1.0)), Err(too_large.clone()));
        assert_eq!(TernaryMatrix::from_trits(rows, cols, &[0], Scale::Tensor(1.0)), Err(too_large));
    }
}

#[test]
fn a_large_shape_with_few_bytes_allocates_nothing() {
    for packing in PACKINGS {
        let error = packing.decode(&[0; 100], 1 << 35, 1 << 20).unwrap_err();
        assert!(matches!(error, TernaryError::PackedLength { found: 100, .. }), "{packing}: {error}");
    }
}

#[test]
fn empty_shapes() {
    for (rows, cols) in [(0, 0), (0, 64), (64, 0)] {
        for packing in PACKINGS {
            assert_eq!(packing.decode(&[], rows, cols), Err(TernaryError::Empty { rows, cols }), "{packing}");
        }
        assert_eq!(
            TernaryMatrix::from_words(rows, cols, vec![], Scale::Tensor(1.0)),
            Err(TernaryError::Empty { rows, cols })
        );
    }
}

#[test]
fn shapes_a_packing_cannot_hold() {
    let refused = [
        (Packing::I2S, 3, 64, "128"),
        (Packing::I2SArm64, 3, 32, "64"),
        (Packing::I2SFourRows, 6, 64, "4"),
        (Packing::Tq1_0, 4, 128, "256"),
        (Packing::Tq2_0, 4, 5460, "256"),
        (Packing::Iq2Bn, 4, 96, "64"),
        (Packing::Iq1Bn, 4, 96, "64"),
        (Packing::Iq2BnR4, 6, 64, "4"),
        (Packing::Iq2BnR4, 4, 96, "64"),
        (Packing::Q2_0 { group: 64 }, 4, 96, "64"),
        (Packing::Q2_0 { group: 128 }, 4, 192, "128"),
        (Packing::Q2_0 { group: 0 }, 4, 256, "64 or 128"),
        (Packing::Q2_0 { group: 256 }, 4, 256, "64 or 128"),
    ];
    for (packing, rows, cols, needs) in refused {
        let error = packing.packed_len(rows, cols).unwrap_err();
        assert!(matches!(error, TernaryError::Shape { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains(&packing.to_string()) && message.contains(needs), "{message}");
        assert_eq!(packing.encode(&pattern_matrix(rows, cols, 1.0)), Err(error));
    }
}

#[test]
fn truncated_and_overlong_tensors() {
    for packing in PACKINGS {
        let bytes = packing.encode(&pattern_matrix(4, 256, 1.0)).unwrap();
        for found in (0..bytes.len()).chain([bytes.len() + 1]) {
            let mut other = bytes.clone();
            other.resize(found, 0);
            let expected = bytes.len();
            let error = TernaryError::PackedLength { packing, rows: 4, cols: 256, expected, found };
            assert_eq!(packing.decode(&other, 4, 256), Err(error));
        }
    }
}

#[test]
fn code_3_is_found_where_it_is() {
    let set = |packing: Packing, byte: usize, bit: usize| {
        let mut bytes = packing.encode(&pattern_matrix(4, 256, 1.0)).unwrap();
        bytes[byte] |= 3 << bit;
        packing.decode(&bytes, 4, 256).unwrap_err()
    };
    let expected = |packing, row, col| TernaryError::PackedCode { packing, row, col };
    assert_eq!(set(Packing::HfPacked, 255, 6), expected(Packing::HfPacked, 3, 255));
    assert_eq!(set(Packing::I2S, 33, 4), expected(Packing::I2S, 0, 161));
    assert_eq!(set(Packing::I2SArm64, 64 + 17, 0), expected(Packing::I2SArm64, 1, 113));
    assert_eq!(set(Packing::I2SFourRows, 7, 2), expected(Packing::I2SFourRows, 2, 7));
    assert_eq!(set(Packing::Tq2_0, 66 + 32, 0), expected(Packing::Tq2_0, 1, 128));
    assert_eq!(set(Packing::Iq2Bn, 4 + 15, 6), expected(Packing::Iq2Bn, 0, 63));
    assert_eq!(set(Packing::Iq2BnR4, 16 + 4, 0), expected(Packing::Iq2BnR4, 1, 0));
}

#[test]
fn bytes_of_no_trits() {
    // 0x01 is the code of no five trits; 0x81 is one of five but not of four.
    for (packing, offset, value) in [
        (Packing::Tq1_0, 0, 0x01),
        (Packing::Tq1_0, 54 + 47, 0x01),
        (Packing::Tq1_0, 3 * 54 + 51, 0x81),
        (Packing::Iq1Bn, 2, 0x01),
        (Packing::Iq1Bn, 54 + 2 + 13 + 5, 0x01),
        (Packing::Iq1Bn, 3 * 54 + 2 + 3 * 13 + 12, 0x81),
    ] {
        let mut bytes = packing.encode(&pattern_matrix(4, 256, 1.0)).unwrap();
        bytes[offset] = value;
        assert_eq!(packing.decode(&bytes, 4, 256), Err(TernaryError::PackedByte { packing, offset, value }));
    }
}

#[test]
fn scales_that_are_none() {
    let places = [
        (Packing::I2S, 256, 4),
        (Packing::I2SArm64, 256, 4),
        (Packing::I2SFourRows, 256, 4),
        (Packing::Tq1_0, 54 + 52, 2),
        (Packing::Tq2_0, 66 + 64, 2),
        (Packing::Iq2Bn, 68, 4),
        (Packing::Iq2BnR4, 4, 4),
        (Packing::Iq1Bn, 54, 2),
        (Packing::Q2_0 { group: 64 }, 18, 2),
        (Packing::Q2_0 { group: 128 }, 34, 2),
    ];
    for (packing, at, width) in places {
        // The upper half of each of NaN, +infinity, -infinity and -1, as f16 and as f32.
        for (half, single) in [(0x7e00u16, 0x7fc0u16), (0x7c00, 0x7f80), (0xfc00, 0xff80), (0xbc00, 0xbf80)] {
            let mut bytes = packing.encode(&pattern_matrix(4, 256, 1.0)).unwrap();
            bytes[at..at + width].fill(0);
            let upper = if width == 2 { half } else { single };
            bytes[at + width - 2..at + width].copy_from_slice(&upper.to_le_bytes());
            match packing.decode(&bytes, 4, 256) {
                Err(TernaryError::PackedScale { offset, .. }) => assert_eq!(offset, at, "{packing}"),
                other => panic!("{packing}: {other:?}"),
            }
        }
    }
}

#[test]
fn scales_finer_than_the_packing() {
    let matrix = pattern_matrix(4, 256, 1.0);
    let rows = matrix.clone().with_scale(Scale::Row(vec![0.5, 1.0, 2.0, 4.0])).unwrap();
    let values = (0..32).map(|i| if i % 2 == 0 { 0.5 } else { 1.0 }).collect();
    let groups = matrix.clone().with_scale(Scale::Group { size: 32, values }).unwrap();
    for packing in PACKINGS {
        let holds_rows = !matches!(packing, Packing::I2S | Packing::I2SArm64 | Packing::I2SFourRows);
        assert_eq!(packing.encode(&rows).is_ok(), holds_rows, "{packing}");
        match packing.encode(&groups) {
            Ok(_) => assert_eq!(packing, Packing::HfPacked),
            Err(error) => {
                assert!(matches!(error, TernaryError::ScaleNotHeld { .. }), "{error}");
                assert!(error.to_string().contains("every 32 columns"), "{error}");
            }
        }
    }
}

#[test]
fn scales_of_groups_that_agree_are_one() {
    // Rows of two blocks with a scale each, in groups of 64. The last group is zeros, and its scale is none's.
    let mut trits = pattern(2 * 512);
    trits[960..].fill(0);
    let values = [[0.5; 4], [1.0; 4], [0.25; 4], [2.0, 2.0, 2.0, 7.0]].concat();
    let matrix = TernaryMatrix::from_trits(2, 512, &trits, Scale::Group { size: 64, values }).unwrap();
    for packing in [Packing::Tq1_0, Packing::Tq2_0, Packing::Q2_0 { group: 128 }, Packing::Q2_0 { group: 64 }] {
        let bytes = packing.encode(&matrix).unwrap();
        let read = packing.decode(&bytes, 2, 512).unwrap();
        assert!(read.words() == matrix.words() && read.to_f32() == matrix.to_f32(), "{packing}");
    }
    assert!(matches!(Packing::Iq2Bn.encode(&matrix), Err(TernaryError::ScaleNotHeld { .. })));
}

#[test]
fn scales_beyond_f16() {
    for scale in [1e6, 1e-9] {
        for packing in PACKINGS {
            let stores_f16 = matches!(packing, Packing::Tq1_0 | Packing::Tq2_0 | Packing::Iq1Bn | Packing::Q2_0 { .. });
            let encoded = packing.encode(&pattern_matrix(4, 256, scale));
            if stores_f16 {
                assert_eq!(encoded, Err(TernaryError::ScaleOutOfRange { packing, value: scale }));
            } else {
                assert!(encoded.is_ok(), "{packing}");
            }
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(
        packing in prop::sample::select(&PACKINGS[..]),
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        rows in 0usize..9,
        cols in 0usize..300,
    ) {
        let _ = packing.decode(&bytes, rows, cols);
    }

    #[test]
    fn random_bytes_of_the_right_length_decode_or_are_refused(
        packing in prop::sample::select(&PACKINGS[..]),
        seed in prop::collection::vec(any::<u8>(), 1..64),
        rows in prop::sample::select(&[4usize, 8][..]),
        cols in prop::sample::select(&[256usize, 512][..]),
    ) {
        let length = packing.packed_len(rows, cols).unwrap();
        let bytes: Vec<u8> = seed.iter().copied().cycle().take(length).collect();
        if let Ok(matrix) = packing.decode(&bytes, rows, cols) {
            let (rows, cols, words, scale) = matrix.into_parts();
            prop_assert!(TernaryMatrix::from_words(rows, cols, words, scale).is_ok());
        }
    }

    #[test]
    fn a_flipped_bit_decodes_or_is_refused(
        packing in prop::sample::select(&PACKINGS[..]),
        at: prop::sample::Index,
        bit in 0u32..8,
    ) {
        let mut bytes = packing.encode(&pattern_matrix(4, 256, 0.5)).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(matrix) = packing.decode(&bytes, 4, 256) {
            let (rows, cols, words, scale) = matrix.into_parts();
            prop_assert!(TernaryMatrix::from_words(rows, cols, words, scale).is_ok());
        }
    }

    #[test]
    fn any_shape_has_a_length_or_a_reason(
        packing in prop::sample::select(&PACKINGS[..]),
        rows: usize,
        cols: usize,
    ) {
        let _ = packing.packed_len(rows, cols);
        let _ = packing.packed_len(rows >> (cols % 64), cols >> (rows % 64));
    }
}
