//! IQ2_BN, IQ2_BN_R4 and IQ1_BN of ik_llama.cpp (GGUF tensor types 135, 335 and 134).
//!
//! All three have a scale a row and blocks of 64 columns, so the columns have to be a multiple of 64. A row of zeros has
//! the scale 0.
//!
//! # IQ2_BN
//!
//! A row is its f32 scale, then its blocks of 16 bytes. A byte holds four elements 16 apart, the first in the low bits:
//! element `j` of a block is in byte `j % 16`, at bit `2 * (j / 16)`.
//!
//! ```text
//!   0           4                20               36
//!   | f32 scale | block 0        | block 1        | ...         bits       7:6  5:4  3:2  1:0
//!                                                               byte  0     48   32   16   0
//!                                                               byte 15     63   47   31   15
//! ```
//!
//! `t(0..64)` is `60 a1 81 85 06 16 1a 58 68 60 a1 81 85 06 16 1a`; the first byte is 01 10 00 00, the codes 1, 2, 0, 0 of
//! elements 48, 32, 16 and 0.
//!
//! ```
//! # use bitnet_ternary::{Packing, Scale, TernaryMatrix};
//! let t: Vec<i8> = (0..128).map(|i| ((i * i + i / 3) % 3) as i8 - 1).collect();
//! let matrix = TernaryMatrix::from_trits(1, 128, &t, Scale::Tensor(0.5))?;
//! let bytes = Packing::Iq2Bn.encode(&matrix)?;
//! assert_eq!(bytes[..4], 0.5f32.to_le_bytes());
//! assert_eq!(bytes[4..12], [0x60, 0xa1, 0x81, 0x85, 0x06, 0x16, 0x1a, 0x58]);
//!
//! let code = |col: usize| bytes[4 + col / 64 * 16 + col % 16] >> (2 * (col % 64 / 16)) & 3;
//! assert!((0..128).all(|col| code(col) as i8 - 1 == t[col]));
//! # Ok::<(), bitnet_ternary::TernaryError>(())
//! ```
//!
//! # IQ2_BN_R4
//!
//! Four rows together (the rows have to be a multiple of 4): their four f32 scales, then for each 64 columns 64 bytes.
//! Column `c` of row `k` is in byte `16 * (c / 16) + 4 * k + c % 4`, at bit `2 * (c % 16 / 4)`: four bytes hold 16
//! neighbouring columns of one row.
//!
//! ```text
//!   0                  16                  32                      80
//!   | f32 scales 0..4  | columns 0..16     | 16..32 | 32..48 | 48..64 | ...
//!                      | row 0 | 1 | 2 | 3 |             bits     7:6  5:4  3:2  1:0
//!                                                        byte 0    12   8    4    0
//!                                                        byte 3    15   11   7    3
//! ```
//!
//! `t(0..256)` as 4 rows of 64 begins `48 89 99 91 89 99 91 12`, behind the scales; the first byte is 01 00 10 00, the codes
//! 1, 0, 2, 0 of columns 12, 8, 4 and 0 of row 0, the fifth is of row 1.
//!
//! ```
//! # use bitnet_ternary::{Packing, Scale, TernaryMatrix};
//! let t: Vec<i8> = (0..256).map(|i| ((i * i + i / 3) % 3) as i8 - 1).collect();
//! let matrix = TernaryMatrix::from_trits(4, 64, &t, Scale::Row(vec![0.5, 1.0, 2.0, 4.0]))?;
//! let bytes = Packing::Iq2BnR4.encode(&matrix)?;
//! assert_eq!(bytes[..16], [0.5f32, 1.0, 2.0, 4.0].map(f32::to_le_bytes).concat());
//! assert_eq!(bytes[16..24], [0x48, 0x89, 0x99, 0x91, 0x89, 0x99, 0x91, 0x12]);
//!
//! let code = |k: usize, c: usize| bytes[16 + 16 * (c / 16) + 4 * k + c % 4] >> (2 * (c % 16 / 4)) & 3;
//! assert!((0..256).all(|i| code(i / 64, i % 64) as i8 - 1 == t[i]));
//! # Ok::<(), bitnet_ternary::TernaryError>(())
//! ```
//!
//! # IQ1_BN
//!
//! A row is its f16 scale, then its blocks of 13 bytes. Each 16 elements are three bytes of five trits; the sixteenth of
//! each is a digit of the block's last byte. A byte is `ceil(256 * (d0 + 3 d1 + 9 d2 + 27 d3 + 81 d4) / 243)`: the *least*
//! significant digit comes first, unlike in TQ1_0.
//!
//! ```text
//!   byte      0      1       2        3       4      ...     11        12
//!   element  0..5   5..10   10..15   16..21  21..26  ...   58..63   15 31 47 63
//! ```
//!
//! `t(0..64)` is `d4 09 f2 72 54 7c 09 f2 58 54 7c 1c 12`. Zeros are twelve `80` and `2b`. A byte that is not the code of
//! any trits (of any four, for the last) is refused.
//!
//! ```
//! # use bitnet_ternary::{Packing, Scale, TernaryMatrix};
//! let t: Vec<i8> = (0..64).map(|i| ((i * i + i / 3) % 3) as i8 - 1).collect();
//! let matrix = TernaryMatrix::from_trits(1, 64, &t, Scale::Tensor(0.5))?;
//! let bytes = Packing::Iq1Bn.encode(&matrix)?;
//! assert_eq!(bytes[..2], [0x00, 0x38]);
//! assert_eq!(bytes[2..], [0xd4, 0x09, 0xf2, 0x72, 0x54, 0x7c, 0x09, 0xf2, 0x58, 0x54, 0x7c, 0x1c, 0x12]);
//!
//! // The digits of a byte come out at its top as in TQ1_0, the last first.
//! let digit = |byte: u8, n: u32| (u16::from(byte.wrapping_mul(3u8.pow(4 - n))) * 3 >> 8) as i8;
//! let code = |j: usize| match j % 16 {
//!     15 => digit(bytes[2 + 12], j as u32 / 16),
//!     i => digit(bytes[2 + j / 16 * 3 + i / 5], i as u32 % 5),
//! };
//! assert!((0..64).all(|j| code(j) - 1 == t[j]));
//! # Ok::<(), bitnet_ternary::TernaryError>(())
//! ```

use super::Packing;
use super::base3::{self, Digits, LEAST_FIRST};
use super::block_scale::{self, BlockScales, f16_bytes, read_f16, read_f32};
use crate::crumbs;
use crate::fresh::zeroed_words;
use crate::{Scale, TernaryError, TernaryMatrix, words_per_row};

/// Elements a block.
pub(super) const BLOCK: usize = 64;
/// Bytes a block of IQ2_BN.
pub(super) const IQ2_BLOCK_BYTES: usize = 16;
/// Bytes before the blocks of a row of IQ2_BN.
pub(super) const IQ2_ROW_BYTES: usize = 4;
/// Bytes a block of IQ1_BN.
pub(super) const IQ1_BLOCK_BYTES: usize = 13;
/// Bytes before the blocks of a row of IQ1_BN.
pub(super) const IQ1_ROW_BYTES: usize = 2;

const HOLDS: &str = "it stores one scale a row";

pub(super) fn decode_iq2(
    packing: Packing,
    bytes: &[u8],
    rows: usize,
    cols: usize,
) -> Result<(Vec<u32>, Scale), TernaryError> {
    let mut words = Vec::with_capacity(rows * words_per_row(cols));
    let mut scales = BlockScales::new(packing, rows);
    let row_bytes = bytes.len() / rows;
    for (index, row) in bytes.chunks_exact(row_bytes).enumerate() {
        let (scale, blocks) = row.split_at(IQ2_ROW_BYTES);
        let start = words.len();
        for block in blocks.as_chunks::<16>().0 {
            words.extend_from_slice(&crumbs::planes(block));
        }
        scales.push(read_f32(scale), index * row_bytes, &words[start..])?;
    }
    Ok((words, scales.finish(Scale::Row)))
}

pub(super) fn encode_iq2(packing: Packing, matrix: &TernaryMatrix, bytes: &mut Vec<u8>) -> Result<(), TernaryError> {
    for (row, scale) in block_scale::blocks(packing, matrix, matrix.cols(), HOLDS)? {
        bytes.extend_from_slice(&scale.to_le_bytes());
        for block in row.as_chunks::<4>().0 {
            bytes.extend_from_slice(&crumbs::join(*block));
        }
    }
    Ok(())
}

pub(super) fn decode_iq2_r4(
    packing: Packing,
    bytes: &[u8],
    rows: usize,
    cols: usize,
) -> Result<(Vec<u32>, Scale), TernaryError> {
    let per_row = words_per_row(cols);
    let mut words = zeroed_words(rows * per_row);
    let mut scales = BlockScales::new(packing, rows);
    let group_bytes = bytes.len() / (rows / 4);
    for (index, (group, out)) in bytes.chunks_exact(group_bytes).zip(words.chunks_exact_mut(4 * per_row)).enumerate() {
        let (stored, codes) = group.split_at(4 * IQ2_ROW_BYTES);
        for (i, word) in codes.as_chunks::<4>().0.iter().enumerate() {
            out[i % 4 * per_row + i / 4] = crumbs::transpose(u32::from_le_bytes(*word));
        }
        for (k, row) in out.chunks_exact(per_row).enumerate() {
            scales.push(read_f32(&stored[4 * k..]), index * group_bytes + 4 * k, row)?;
        }
    }
    Ok((words, scales.finish(Scale::Row)))
}

pub(super) fn encode_iq2_r4(packing: Packing, matrix: &TernaryMatrix, bytes: &mut Vec<u8>) -> Result<(), TernaryError> {
    let rows: Vec<(&[u32], f32)> = block_scale::blocks(packing, matrix, matrix.cols(), HOLDS)?.collect();
    for group in rows.chunks_exact(4) {
        for (_, scale) in group {
            bytes.extend_from_slice(&scale.to_le_bytes());
        }
        for i in 0..words_per_row(matrix.cols()) {
            for (row, _) in group {
                bytes.extend_from_slice(&crumbs::transpose(row[i]).to_le_bytes());
            }
        }
    }
    Ok(())
}

pub(super) fn decode_iq1(
    packing: Packing,
    bytes: &[u8],
    rows: usize,
    cols: usize,
) -> Result<(Vec<u32>, Scale), TernaryError> {
    let mut words = Vec::with_capacity(rows * words_per_row(cols));
    let mut scales = BlockScales::new(packing, rows);
    let row_bytes = bytes.len() / rows;
    for (index, row) in bytes.chunks_exact(row_bytes).enumerate() {
        let offset = index * row_bytes;
        let (scale, blocks) = row.split_at(IQ1_ROW_BYTES);
        let start = words.len();
        for (block_index, block) in blocks.as_chunks::<IQ1_BLOCK_BYTES>().0.iter().enumerate() {
            let digits = block.map(|byte| LEAST_FIRST.decode(byte));
            let (fives, sixteenths) = (&digits[..12], digits[12]);
            let seen = fives.iter().fold(0, |seen, digits| seen | digits);
            if !base3::are_valid(seen, 5) || !base3::are_valid(sixteenths, 4) {
                let invalid = |i: &usize| !base3::are_valid(digits[*i], if *i < 12 { 5 } else { 4 });
                let i = (0..13).find(invalid).unwrap_or_default();
                let offset = offset + IQ1_ROW_BYTES + block_index * IQ1_BLOCK_BYTES + i;
                return Err(TernaryError::PackedByte { packing, offset, value: block[i] });
            }
            for (i, fives) in fives.as_chunks::<3>().0.iter().enumerate() {
                let [a, b, c] = fives.map(u32::from);
                let sixteenth = u32::from(sixteenths) >> (2 * i) & 3;
                words.push(a | b << 10 | c << 20 | sixteenth << 30);
            }
        }
        scales.push(read_f16(scale), offset, &words[start..])?;
    }
    Ok((words, scales.finish(Scale::Row)))
}

pub(super) fn encode_iq1(packing: Packing, matrix: &TernaryMatrix, bytes: &mut Vec<u8>) -> Result<(), TernaryError> {
    for (row, scale) in block_scale::blocks(packing, matrix, matrix.cols(), HOLDS)? {
        bytes.extend_from_slice(&f16_bytes(packing, scale)?);
        for block in row.as_chunks::<4>().0 {
            for word in block {
                let fives = [0, 10, 20].map(|shift| (word >> shift) as Digits & 0x3ff);
                bytes.extend_from_slice(&fives.map(|digits| LEAST_FIRST.encode(digits)));
            }
            let sixteenths = block.iter().enumerate().map(|(i, word)| (word >> 30) << (2 * i)).sum::<u32>();
            bytes.push(LEAST_FIRST.encode(sixteenths as Digits));
        }
    }
    Ok(())
}
