//! TQ1_0 of llama.cpp (GGUF tensor type 34): five trits a byte, an f16 scale every 256.
//!
//! A block is 54 bytes. Most bytes hold five trits as base-3 digits `d0..d4`, the most significant first, as the
//! fraction `ceil(256 * (81 d0 + 27 d1 + 9 d2 + 3 d3 + d4) / 243)`; the last four hold only four (`d4` = 0). Trits of
//! one byte lie far apart:
//!
//! ```text
//!             digit    d0        d1        d2        d3        d4
//!   byte  0..32        0..32     32..64    64..96    96..128   128..160     element
//!   byte 32..48      160..176   176..192  192..208  208..224   224..240
//!   byte 48..52      240..244   244..248  248..252  252..256      -
//!   byte 52..54      f16 d
//! ```
//!
//! The columns have to be a multiple of 256. A block of zeros has `d` = 0. Only 243 of the 256 byte values (81 in the
//! last four bytes) are the code of any trits; the others are refused.
//!
//! Worked example, `0.5 * t(0..256)`: `4a 99 61 6b c3 de cb 23 41 4a 99 61 6b c3 de cb ... db 33 20 3d 00 38`. Elements 0,
//! 32, 64, 96 and 128 are -1 +1 0 +1 0: v = 81*0 + 27*2 + 9*1 + 3*2 + 1 = 70, and ceil(256 * 70 / 243) = 74 = 0x4a.
//!
//! A reader needs neither a table nor a division: multiplying the byte by 3 pushes the first digit out at its top.
//!
//! ```
//! use bitnet_ternary::{Packing, Scale, TernaryMatrix};
//!
//! let t: Vec<i8> = (0..256).map(|i| ((i * i + i / 3) % 3) as i8 - 1).collect();
//! let matrix = TernaryMatrix::from_trits(1, 256, &t, Scale::Tensor(0.5))?;
//! let bytes = Packing::Tq1_0.encode(&matrix)?;
//! assert_eq!(bytes[..8], [0x4a, 0x99, 0x61, 0x6b, 0xc3, 0xde, 0xcb, 0x23]);
//! assert_eq!(bytes[48..], [0xdb, 0x33, 0x20, 0x3d, 0x00, 0x38]);
//!
//! let digit = |byte: u8, n: u32| (u16::from(byte.wrapping_mul(3u8.pow(n))) * 3 >> 8) as i8;
//! let code = |e: usize| match e {
//!     0..160 => digit(bytes[e % 32], e as u32 / 32),
//!     160..240 => digit(bytes[32 + e % 16], (e as u32 - 160) / 16),
//!     _ => digit(bytes[48 + e % 4], (e as u32 - 240) / 4),
//! };
//! assert!((0..256).all(|e| code(e) - 1 == t[e]));
//! # Ok::<(), bitnet_ternary::TernaryError>(())
//! ```

use super::Packing;
use super::base3::{self, Digits, MOST_FIRST};
use super::block_scale::{self, BlockScales, f16_bytes, read_f16};
use crate::crumbs;
use crate::{CODES_PER_WORD, Scale, TernaryError, TernaryMatrix};

/// Elements a block.
pub(super) const BLOCK: usize = 256;
/// Bytes a block.
pub(super) const BLOCK_BYTES: usize = 54;

/// Where the bytes of four digits begin, and where they end.
const FOUR_DIGITS: usize = 48;
const SCALE: usize = 52;

pub(super) fn decode(packing: Packing, bytes: &[u8]) -> Result<(Vec<u32>, Scale), TernaryError> {
    let blocks = bytes.len() / BLOCK_BYTES;
    let mut words = Vec::with_capacity(blocks * BLOCK / CODES_PER_WORD);
    let mut scales = BlockScales::new(packing, blocks);
    for (index, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
        let offset = index * BLOCK_BYTES;
        let (mut fours, mut fifths) = ([0u8; SCALE], [0u8; SCALE]);
        for ((four, fifth), byte) in fours.iter_mut().zip(&mut fifths).zip(block) {
            [*four, *fifth] = MOST_FIRST.decode(*byte).to_le_bytes();
        }
        let (in_fives, in_fours) = fifths.split_at(FOUR_DIGITS);
        let largest = |fifths: &[u8]| fifths.iter().fold(0, |largest, fifth| largest.max(*fifth));
        if largest(in_fives) > 2 || largest(in_fours) > 0 {
            return Err(refusal(packing, offset, block));
        }
        let codes = block_words(&fours, &fifths);
        scales.push(read_f16(&block[SCALE..]), offset + SCALE, &codes)?;
        words.extend_from_slice(&codes);
    }
    Ok((words, scales.finish(|values| Scale::Group { size: BLOCK, values })))
}

/// The error for the first byte of a block that no trits encode to.
fn refusal(packing: Packing, offset: usize, block: &[u8]) -> TernaryError {
    let valid = |i: usize| base3::are_valid(MOST_FIRST.decode(block[i]), if i < FOUR_DIGITS { 5 } else { 4 });
    let i = (0..SCALE).find(|i| !valid(*i)).unwrap_or_default();
    TernaryError::PackedByte { packing, offset: offset + i, value: block[i] }
}

/// The 16 canonical words of a block, from the first four digits of each byte and its fifth.
fn block_words(fours: &[u8; SCALE], fifths: &[u8; SCALE]) -> [u32; 16] {
    // The first four digits of a byte are four crumbs, so the planes of 16 bytes are words.
    let (runs, last) = fours.as_chunks::<16>();
    let (first, second, third) = (crumbs::planes(&runs[0]), crumbs::planes(&runs[1]), crumbs::planes(&runs[2]));
    let mut words = [0; 16];
    for n in 0..4 {
        words[2 * n] = first[n];
        words[2 * n + 1] = second[n];
        words[10 + n] = third[n];
    }
    // The fifth digits of the three runs of 16 bytes, put side by side.
    let mut side_by_side = [0; 16];
    for (i, crumbs) in side_by_side.iter_mut().enumerate() {
        *crumbs = fifths[i] | fifths[16 + i] << 2 | fifths[32 + i] << 4;
    }
    [words[8], words[9], words[14], _] = crumbs::planes(&side_by_side);
    words[15] = crumbs::transpose(u32::from_le_bytes([last[0], last[1], last[2], last[3]]));
    words
}

pub(super) fn encode(packing: Packing, matrix: &TernaryMatrix, bytes: &mut Vec<u8>) -> Result<(), TernaryError> {
    for (words, scale) in block_scale::blocks(packing, matrix, BLOCK, "it stores one scale every 256 columns")? {
        for planes in [
            [words[0], words[2], words[4], words[6], words[8]],
            [words[1], words[3], words[5], words[7], words[9]],
            [words[10], words[11], words[12], words[13], words[14]],
        ] {
            let low = crumbs::join([planes[0], planes[1], planes[2], planes[3]]);
            let fifth = crumbs::join([planes[4], 0, 0, 0]);
            let digits = low.iter().zip(fifth).map(|(low, fifth)| Digits::from(*low) | Digits::from(fifth) << 8);
            bytes.extend(digits.map(|digits| MOST_FIRST.encode(digits)));
        }
        let last = crumbs::transpose(words[15]).to_le_bytes();
        bytes.extend(last.map(|digits| MOST_FIRST.encode(digits.into())));
        bytes.extend_from_slice(&f16_bytes(packing, scale)?);
    }
    Ok(())
}
