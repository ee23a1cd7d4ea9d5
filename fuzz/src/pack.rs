//! Any trits and scales through every packing that takes them.

use bitnet_ternary::{Granularity, Packing, Scale, TernaryMatrix};

use crate::{PACKINGS, Seeds, read, take};

/// The input: rows, columns, a byte each (columns in sixteens if the next is odd), granularity, then an f32 for each scale, then
/// trits.
pub fn run(mut data: &[u8]) {
    let [rows, cols, granularity] = take(&mut data);
    let rows = usize::from(rows % 16) + 1;
    let cols = (usize::from(cols) + 1) * if granularity % 2 == 0 { 1 } else { 16 };
    let mut scales = |count: usize| (0..count).map(|_| f32::from_le_bytes(take(&mut data))).collect::<Vec<_>>();
    let scale = match granularity / 2 % 4 {
        0 => Scale::Tensor(scales(1)[0]),
        1 => Scale::Row(scales(rows)),
        small => {
            let size = [64, 256][usize::from(small) - 2];
            Scale::Group { size, values: scales(rows * cols.div_ceil(size)) }
        }
    };
    let mut trits: Vec<i8> = data.iter().map(|byte| (byte % 3) as i8 - 1).collect();
    trits.resize(rows * cols, 0);
    let matrix = match TernaryMatrix::from_trits(rows, cols, &trits, scale.clone()) {
        Ok(matrix) => matrix,
        Err(error) => {
            assert!(scale.values().iter().any(|x| !x.is_finite() || *x < 0.0));
            return read::one_line(error);
        }
    };
    assert_eq!(matrix.trits(), trits);
    for packing in PACKINGS {
        match packing.encode(&matrix) {
            Ok(bytes) => check(packing, &matrix, &bytes),
            Err(error) => read::one_line(error),
        }
    }
}

/// Trits come back as they were, and scales as near as the format can say them.
fn check(packing: Packing, matrix: &TernaryMatrix, bytes: &[u8]) {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    assert_eq!(packing.packed_len(rows, cols), Ok(bytes.len()));
    let back = packing.decode(bytes, rows, cols).expect("what was encoded can be decoded");
    read::valid(back.clone());
    assert_eq!(back.words(), matrix.words(), "{packing}");
    let exact = match packing {
        // Its scale is a tensor of its own.
        Packing::HfPacked => return assert_eq!(back.scale().granularity(), Granularity::Tensor),
        Packing::Tq1_0 | Packing::Tq2_0 | Packing::Iq1Bn | Packing::Q2_0 { .. } => false,
        _ => true,
    };
    for (found, weight) in back.to_f32().into_iter().zip(matrix.to_f32()) {
        // Half a unit in the last place of an f16, which below 2^-14 is 2^-25.
        let nearest = if exact { 0.0 } else { (weight.abs() / 2048.0).max(1.0 / 33_554_432.0) };
        assert!((found - weight).abs() <= nearest, "{packing}: {weight} came back as {found}");
    }
}

/// Scales of each granularity.
pub fn seeds() -> Seeds {
    let seed = |(granularity, scales): (u8, usize)| {
        let head = [3, 15, 2 * granularity + 1];
        let scales = (1..=scales).flat_map(|i| (i as f32 / 8.0).to_le_bytes());
        let trits = (0..=255u8).cycle().take(1024);
        (format!("granularity-{granularity}"), head.into_iter().chain(scales).chain(trits).collect())
    };
    [(0, 1), (1, 4), (2, 16), (3, 4)].into_iter().map(seed).collect()
}
