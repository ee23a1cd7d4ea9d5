//! Q2_0 of llama.cpp (GGUF tensor type 42, groups of 64) and of PrismML (groups of 128, type 42 in old files and 142).
//!
//! A block is an f16 scale, then the codes in order, the first in the low bits: 18 bytes for 64 elements, 34 for 128.
//! Element `j` is in byte `2 + j / 4`, at bit `2 * (j % 4)`; four bytes are a canonical word as it stands.
//!
//! ```text
//!   0       2                                18       bits     7:6  5:4  3:2  1:0
//!   | f16 d | 16 bytes of codes              |        byte 2    3    2    1    0
//!                                                     byte 3    7    6    5    4
//! ```
//!
//! The columns have to be a multiple of the group. The format has a fourth level, code 3 for +2 scales; a tensor that
//! uses it is not ternary and is refused.
//!
//! Worked example, the codes of `t(0..64)`: `54 2a 50 a9 40 a5 02 95 0a 54 2a 50 a9 40 a5 02`. The first byte is
//! 01 01 01 00, the codes 1, 1, 1, 0 of elements 3, 2, 1 and 0.
//!
//! ```
//! use bitnet_ternary::{Packing, Scale, TernaryMatrix};
//!
//! let t: Vec<i8> = (0..128).map(|i| ((i * i + i / 3) % 3) as i8 - 1).collect();
//! let matrix = TernaryMatrix::from_trits(1, 128, &t, Scale::Tensor(0.5))?;
//! for group in [64, 128] {
//!     let bytes = Packing::Q2_0 { group }.encode(&matrix)?;
//!     assert_eq!(bytes[..8], [0x00, 0x38, 0x54, 0x2a, 0x50, 0xa9, 0x40, 0xa5]);
//!
//!     let code = |e: usize| bytes[e / group * (2 + group / 4) + 2 + e % group / 4] >> (2 * (e % 4)) & 3;
//!     assert!((0..128).all(|e| code(e) as i8 - 1 == t[e]));
//! }
//! # Ok::<(), bitnet_ternary::TernaryError>(())
//! ```

use super::Packing;
use super::block_scale::{self, BlockScales, f16_bytes, read_f16};
use crate::{CODES_PER_WORD, Scale, TernaryError, TernaryMatrix};

const SCALE_BYTES: usize = 2;

/// Bytes a block of `group` elements.
pub(super) const fn block_bytes(group: usize) -> usize {
    SCALE_BYTES + group / 4
}

/// The values of a row of whole blocks, `row.len() / group` of them: `d * (code - 1)`. All four levels are values here, so
/// that an embedding that has not only trits is read as well.
///
/// # Panics
/// When `bytes` are not those of such a row.
pub fn dequantize_row(bytes: &[u8], group: usize, row: &mut [f32]) {
    assert_eq!(bytes.len() * group, row.len() * block_bytes(group), "bytes of a row");
    for (block, values) in bytes.chunks_exact(block_bytes(group)).zip(row.chunks_exact_mut(group)) {
        let (d, codes) = block.split_at(SCALE_BYTES);
        let d = read_f16(d);
        let levels = [-d, 0.0, d, 2.0 * d];
        for (four, byte) in values.as_chunks_mut::<4>().0.iter_mut().zip(codes) {
            *four = [0, 2, 4, 6].map(|shift| levels[usize::from(byte >> shift & 3)]);
        }
    }
}

/// The codes of a row of whole blocks, from -1 to 2, and the scale of each `group` of them: their products are what
/// [`dequantize_row`] gives.
///
/// # Panics
/// When `bytes` are not those of such a row, or `scales` is not one a group.
pub fn codes_row(bytes: &[u8], group: usize, codes: &mut [i8], scales: &mut [f32]) {
    assert_eq!(bytes.len() * group, codes.len() * block_bytes(group), "bytes of a row");
    assert_eq!(scales.len() * group, codes.len(), "a scale for each group");
    let blocks = bytes.chunks_exact(block_bytes(group)).zip(codes.chunks_exact_mut(group)).zip(scales);
    for ((block, codes), scale) in blocks {
        let (d, packed) = block.split_at(SCALE_BYTES);
        *scale = read_f16(d);
        for (four, byte) in codes.as_chunks_mut::<4>().0.iter_mut().zip(packed) {
            *four = [0, 2, 4, 6].map(|shift| (byte >> shift & 3).cast_signed() - 1);
        }
    }
}

pub(super) fn decode(packing: Packing, bytes: &[u8], group: usize) -> Result<(Vec<u32>, Scale), TernaryError> {
    let blocks = bytes.len() / block_bytes(group);
    let mut words = Vec::with_capacity(blocks * group / CODES_PER_WORD);
    let mut scales = BlockScales::new(packing, blocks);
    for (index, block) in bytes.chunks_exact(block_bytes(group)).enumerate() {
        let (d, codes) = block.split_at(SCALE_BYTES);
        let start = words.len();
        words.extend(codes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)));
        scales.push(read_f16(d), index * block_bytes(group), &words[start..])?;
    }
    Ok((words, scales.finish(|values| Scale::Group { size: group, values })))
}

pub(super) fn encode(
    packing: Packing,
    matrix: &TernaryMatrix,
    group: usize,
    bytes: &mut Vec<u8>,
) -> Result<(), TernaryError> {
    for (words, scale) in block_scale::blocks(packing, matrix, group, "it stores one scale for each of its groups")? {
        bytes.extend_from_slice(&f16_bytes(packing, scale)?);
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    Ok(())
}
