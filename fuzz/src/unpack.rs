//! Any bytes as a packed ternary matrix.

use bitnet_ternary::TernaryMatrix;

use crate::{PACKINGS, Seeds, read, take};

/// The input: packing, rows, columns, shortage, a byte each (columns in sixteens if the packing's byte is odd), then the packed
/// bytes; as many as are missing are zero.
pub fn run(mut data: &[u8]) {
    let [packing, rows, cols, short] = take(&mut data);
    let (rows, cols) = (usize::from(rows), usize::from(cols) * if packing % 2 == 0 { 1 } else { 16 });
    let packing = PACKINGS[usize::from(packing / 2) % PACKINGS.len()];
    let length = match packing.packed_len(rows, cols) {
        Ok(length) => length,
        Err(error) => {
            assert!(packing.decode(data, rows, cols).is_err());
            return read::one_line(error);
        }
    };
    let mut bytes = data.to_vec();
    bytes.resize(length.saturating_sub(usize::from(short)), 0);
    let matrix = match packing.decode(&bytes, rows, cols) {
        Ok(matrix) => matrix,
        Err(error) => return read::one_line(error),
    };
    assert_eq!(bytes.len(), length, "bytes of another length were taken");
    read::valid(matrix.clone());
    // What the format says can be said again in it, and means the same.
    let again = packing.encode(&matrix).expect("what was decoded can be encoded");
    let same: TernaryMatrix = packing.decode(&again, rows, cols).expect("and decoded again");
    assert_eq!(same.words(), matrix.words());
    assert_eq!(same.to_f32(), matrix.to_f32());
    assert_eq!(packing.encode(&same).expect("as before"), again);
}

/// A matrix of 4 x 256 in each packing.
pub fn seeds() -> Seeds {
    let trits: Vec<i8> = (0..1024).map(|i| ((i * i + i / 3) % 3) as i8 - 1).collect();
    let scale = bitnet_ternary::Scale::Tensor(0.5);
    let matrix = TernaryMatrix::from_trits(4, 256, &trits, scale).expect("they are trits");
    let seed = |(i, packing): (usize, bitnet_ternary::Packing)| {
        let packed = packing.encode(&matrix).expect("every packing holds 4 x 256");
        let bytes = [&[2 * i as u8 + 1, 4, 256_usize.div_ceil(16) as u8, 0][..], &packed].concat();
        (packing.to_string().replace(' ', "-"), bytes)
    };
    PACKINGS.into_iter().enumerate().map(seed).collect()
}
