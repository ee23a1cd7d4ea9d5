//! TQ2_0 of llama.cpp (GGUF tensor type 35): two bits a trit, an f16 scale every 256.
//!
//! A block is 66 bytes: 64 of codes, then the scale. The codes are two halves of 128 elements in 32 bytes; a byte holds
//! four elements 32 apart, the first of them in the *low* bits (I2_S has them the other way round). Element `e` is in
//! byte `32 * (e / 128) + e % 32`, at bit `2 * (e % 128 / 32)`.
//!
//! ```text
//!   bits       7:6      5:4      3:2      1:0
//!   byte  0     96       64       32       0         64      66
//!    ...                                             | f16 d |
//!   byte 31    127       95       63       31
//!   byte 32    224      192      160      128
//!    ...
//! ```
//!
//! The columns have to be a multiple of 256. A block of zeros has `d` = 0.
//!
//! Worked example, `0.5 * t(0..256)`: `98 19 11 21 62 66 46 84 88 98 19 11 21 62 66 46 ... 21 62 66 46 00 38`. The first
//! byte is 10 01 10 00, the codes 2, 1, 2, 0 of elements 96, 64, 32 and 0; the last two are 0.5 as f16.
//!
//! ```
//! use bitnet_ternary::{Packing, Scale, TernaryMatrix};
//!
//! let t: Vec<i8> = (0..256).map(|i| ((i * i + i / 3) % 3) as i8 - 1).collect();
//! let matrix = TernaryMatrix::from_trits(1, 256, &t, Scale::Tensor(0.5))?;
//! let bytes = Packing::Tq2_0.encode(&matrix)?;
//! assert_eq!(bytes[..8], [0x98, 0x19, 0x11, 0x21, 0x62, 0x66, 0x46, 0x84]);
//! assert_eq!(bytes[60..], [0x21, 0x62, 0x66, 0x46, 0x00, 0x38]);
//!
//! let code = |e: usize| bytes[32 * (e / 128) + e % 32] >> (2 * (e % 128 / 32)) & 3;
//! assert!((0..256).all(|e| code(e) as i8 - 1 == t[e]));
//! # Ok::<(), bitnet_ternary::TernaryError>(())
//! ```

use super::Packing;
use super::block_scale::{self, BlockScales, f16_bytes, read_f16};
use crate::crumbs;
use crate::{CODES_PER_WORD, Scale, TernaryError, TernaryMatrix};

/// Elements a block.
pub(super) const BLOCK: usize = 256;
/// Bytes a block.
pub(super) const BLOCK_BYTES: usize = CODE_BYTES + 2;
const CODE_BYTES: usize = BLOCK / 4;

pub(super) fn decode(packing: Packing, bytes: &[u8]) -> Result<(Vec<u32>, Scale), TernaryError> {
    let blocks = bytes.len() / BLOCK_BYTES;
    let mut words = Vec::with_capacity(blocks * BLOCK / CODES_PER_WORD);
    let mut scales = BlockScales::new(packing, blocks);
    for (index, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
        let (codes, d) = block.split_at(CODE_BYTES);
        let start = words.len();
        for half in codes.as_chunks::<16>().0.chunks_exact(2) {
            let ([a, b, c, d], [e, f, g, h]) = (crumbs::planes(&half[0]), crumbs::planes(&half[1]));
            words.extend_from_slice(&[a, e, b, f, c, g, d, h]);
        }
        scales.push(read_f16(d), index * BLOCK_BYTES + CODE_BYTES, &words[start..])?;
    }
    Ok((words, scales.finish(|values| Scale::Group { size: BLOCK, values })))
}

pub(super) fn encode(packing: Packing, matrix: &TernaryMatrix, bytes: &mut Vec<u8>) -> Result<(), TernaryError> {
    for (words, scale) in block_scale::blocks(packing, matrix, BLOCK, "it stores one scale every 256 columns")? {
        for half in words.chunks_exact(8) {
            bytes.extend_from_slice(&crumbs::join([half[0], half[2], half[4], half[6]]));
            bytes.extend_from_slice(&crumbs::join([half[1], half[3], half[5], half[7]]));
        }
        bytes.extend_from_slice(&f16_bytes(packing, scale)?);
    }
    Ok(())
}
