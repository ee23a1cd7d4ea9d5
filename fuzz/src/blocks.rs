//! Any bytes as rows of the block formats of floats.

use bitnet_format::BlockFormat;

use crate::{Seeds, read, take};

const FORMATS: [BlockFormat; 7] = [
    BlockFormat::Q8_0,
    BlockFormat::Q6_K,
    BlockFormat::Q4_0,
    BlockFormat::Q4_K,
    BlockFormat::IQ4_NL,
    BlockFormat::Q5_0,
    BlockFormat::Q3_K,
];

/// The input: format, values (in 16s), a byte each, then the blocks.
pub fn run(mut data: &[u8]) {
    let [format, values] = take(&mut data);
    let format = FORMATS[usize::from(format) % FORMATS.len()];
    let mut out = vec![f32::NAN; 16 * usize::from(values)];
    match format.dequantize_row(data, &mut out) {
        Err(error) => {
            assert_ne!(format.row_bytes(out.len()), Some(data.len()));
            read::one_line(error);
        }
        Ok(()) => {
            assert_eq!(format.row_bytes(out.len()), Some(data.len()));
            // A block is decoded by itself: what is before it does not matter.
            if let Some(last) = out.len().checked_sub(format.block_elems()) {
                let mut alone = vec![0.0; format.block_elems()];
                let block = &data[data.len() - format.block_bytes()..];
                format.dequantize_row(block, &mut alone).expect("it is one block");
                assert!(alone.iter().zip(&out[last..]).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }
}

/// Two blocks of each format.
pub fn seeds() -> Seeds {
    let seed = |(i, format): (usize, &BlockFormat)| {
        let values = [i as u8, (2 * format.block_elems() / 16) as u8];
        let blocks = (0..2 * format.block_bytes()).map(|i| (i * 37 % 61) as u8);
        (format!("{format:?}"), values.into_iter().chain(blocks).collect())
    };
    FORMATS.iter().enumerate().map(seed).collect()
}
