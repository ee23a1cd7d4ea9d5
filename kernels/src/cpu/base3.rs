//! A denser order of packed words: five trits in a byte, 1.6 bits a weight, for machines that wait for their memory.
//!
//! Four words of a row, 16 bytes, hold 80 columns. A byte is the number `v = 81 c4 + 27 c3 + 9 c2 + 3 c1 + c0`, of codes from
//! 0 to 2, as a fraction of 243: `ceil(256 v / 243)`.
//!
//! ```text
//! word i, byte j     c0 .. c3: columns 16 i + 4 j .. + 3                       c4: column 64 + 4 j + i
//! ```
//!
//! So three times a byte has the first code, `c4`, above its eight bits, and in them the same fraction of what follows:
//!
//! ```text
//! b0 = byte     code = (3 b) >> 8     next b = 3 b mod 256     c4, c3, c2, c1, c0 in turn
//! ```
//!
//! A table turns word `i` into word `i` of the canonical order, and the fifth codes of the four words are the planes of
//! canonical word 4. Kernels do without: they compare `b` with 86 and 171, or do not even take the codes out: as
//! `256 code = 3 b - next b`, their products are those of the bytes, `256 sum(code x) = 3 sum(b x) - sum(next b x)`.
//! Rows are padded to whole 80 columns; tiles are as in [`super::tiles`]. The fraction is that of llama.cpp's TQ1_0.

use super::isa::on_each_isa;
use super::tiles::TILE_ROWS;

/// Columns of four words.
pub(crate) const COLUMNS: usize = 80;

/// Words of 80 columns.
pub(crate) const WORDS: usize = 4;

/// Canonical words of 80 columns.
pub(crate) const CANONICAL: usize = 5;

/// Where the lanes of activations of word `i` of a group lie, in the order in which a byte gives up its codes.
pub(crate) fn lanes_of(i: usize) -> [usize; 5] {
    [4 * WORDS + i, 4 * i + 3, 4 * i + 2, 4 * i + 1, 4 * i]
}

/// Groups whose products, 256 times as large, fit 32 bits: one adds at most `80 * 2 * 128`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) const GROUPS_IN_I32: usize = 400;

/// The four low codes of a byte, two bits each.
pub(crate) static CODES: [u8; 256] = codes();

/// The number of four codes, two bits each. No code is 3.
static NUMBERS: [u8; 256] = numbers();

const fn codes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        // The fifth code leaves first.
        let (mut rest, mut codes, mut place) = (3 * byte % 256, 0, 4);
        while place > 0 {
            place -= 1;
            codes |= ((3 * rest) >> 8) << (2 * place);
            rest = 3 * rest % 256;
        }
        table[byte] = codes as u8;
        byte += 1;
    }
    table
}

const fn numbers() -> [u8; 256] {
    let mut table = [0; 256];
    let mut codes = 0;
    while codes < 256 {
        table[codes] = ((codes & 3) + 3 * (codes >> 2 & 3) + 9 * (codes >> 4 & 3) + 27 * (codes >> 6)) as u8;
        codes += 1;
    }
    table
}

/// The byte of four codes, two bits each, and a fifth.
fn byte(codes: u8, fifth: u8) -> u8 {
    (256 * (u32::from(NUMBERS[usize::from(codes)]) + 81 * u32::from(fifth))).div_ceil(243) as u8
}

/// Groups of 80 columns of a tile of 16 rows.
///
/// # Panics
/// When `tile` is not whole groups of 16 rows, or `x` not 20 lanes for each.
pub(crate) fn check(tile: &[u32], x: &[u32]) -> usize {
    let groups = tile.len() / (WORDS * TILE_ROWS);
    assert!(tile.len() == WORDS * TILE_ROWS * groups && x.len() == 4 * CANONICAL * groups, "lanes");
    groups
}

/// Words of a row of `cols` columns.
pub(crate) fn width(cols: usize) -> usize {
    cols.div_ceil(COLUMNS) * WORDS
}

/// One row of canonical words, each `stride` after the other, into dense words of the same stride. Padding has code 1, as the
/// canonical order has it.
pub(crate) fn pack(canonical: &[u32], dense: &mut [u32], stride: usize) {
    const PADDING: u32 = 0x5555_5555;
    let words = canonical.len().div_ceil(stride);
    let word = |k: usize| if k < words { canonical[k * stride] } else { PADDING };
    for group in 0..dense.len().div_ceil(stride) / WORDS {
        let fifths = word(CANONICAL * group + WORDS);
        for i in 0..WORDS {
            let (codes, fifths) = (word(CANONICAL * group + i).to_le_bytes(), (fifths >> (2 * i)).to_le_bytes());
            let bytes = std::array::from_fn(|j| byte(codes[j], fifths[j] & 3));
            dense[(WORDS * group + i) * stride] = u32::from_le_bytes(bytes);
        }
    }
}

/// The reverse of [`pack`].
pub(crate) fn unpack(dense: &[u32], canonical: &mut [u32], stride: usize) {
    let (groups, words) = (dense.len().div_ceil(stride) / WORDS, canonical.len().div_ceil(stride));
    for group in 0..groups {
        let mut fifths = 0;
        for i in 0..WORDS {
            let bytes = dense[(WORDS * group + i) * stride].to_le_bytes();
            if CANONICAL * group + i < words {
                canonical[(CANONICAL * group + i) * stride] = u32::from_le_bytes(bytes.map(|b| CODES[usize::from(b)]));
            }
            fifths |= u32::from_le_bytes(bytes.map(fifth)) << (2 * i);
        }
        if CANONICAL * group + WORDS < words {
            canonical[(CANONICAL * group + WORDS) * stride] = fifths;
        }
    }
}

fn fifth(byte: u8) -> u8 {
    ((3 * u16::from(byte)) >> 8) as u8
}

on_each_isa! {
    /// A whole tile in canonical codes, `canonical` being as many words as there are columns for: [`unpack`] for 16 rows at once.
    pub(crate) fn unpack_tile(dense: &[u32], canonical: &mut [u32]) = unpack_tile_body
}

#[inline(always)]
fn unpack_tile_body(dense: &[u32], canonical: &mut [u32]) {
    const BYTES: usize = 4 * TILE_ROWS;
    let groups = dense.as_chunks::<TILE_ROWS>().0.as_chunks::<WORDS>().0;
    let words = canonical.as_chunks_mut::<TILE_ROWS>().0;
    for (group, canonical) in groups.iter().zip(words.chunks_mut(CANONICAL)) {
        let mut fifths = [0u8; BYTES];
        for (i, word) in group.iter().enumerate() {
            let mut bytes = [0u8; BYTES];
            bytes.as_chunks_mut::<4>().0.iter_mut().zip(word).for_each(|(bytes, word)| *bytes = word.to_le_bytes());
            // The fifth code comes first, then those from the highest place of the canonical byte down.
            let mut codes = [0u8; BYTES];
            for place in 0..5 {
                for ((byte, codes), fifths) in bytes.iter_mut().zip(&mut codes).zip(&mut fifths) {
                    let code = u8::from(*byte >= 86) + u8::from(*byte >= 171);
                    if place == 0 {
                        *fifths |= code << (2 * i);
                    } else {
                        *codes = (*codes << 2) | code;
                    }
                    *byte = byte.wrapping_mul(3);
                }
            }
            if let Some(canonical) = canonical.get_mut(i) {
                put(&codes, canonical);
            }
        }
        if let Some(canonical) = canonical.get_mut(WORDS) {
            put(&fifths, canonical);
        }
    }
}

#[inline(always)]
fn put(bytes: &[u8; 4 * TILE_ROWS], words: &mut [u32; TILE_ROWS]) {
    bytes.as_chunks().0.iter().zip(words).for_each(|(bytes, word)| *word = u32::from_le_bytes(*bytes));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;

    #[test]
    fn every_five_codes_come_back_and_the_fifth_is_a_multiplication_away() {
        for number in 0..243u32 {
            let low = [1, 3, 9, 27].map(|place| (number / place % 3) as u8);
            let codes = low[0] | low[1] << 2 | low[2] << 4 | low[3] << 6;
            let byte = byte(codes, (number / 81) as u8);
            assert_eq!(CODES[usize::from(byte)], codes);
            assert_eq!(u32::from(fifth(byte)), number / 81);
        }
    }

    #[test]
    fn a_row_comes_back_whatever_its_length() {
        for words in [1, 4, 5, 6, 17] {
            for stride in [1, 3] {
                let row: Vec<u32> = (0..words * stride)
                    .map(|i| {
                        let trits = (0..16).map(|j| ((i * 31 + j * 7 + i * j) % 3) as u32);
                        trits.enumerate().map(|(j, code)| code << (2 * j)).sum()
                    })
                    .collect();
                let mut dense = vec![0; width(16 * words) * stride];
                pack(&row, &mut dense, stride);
                let mut back = vec![0; row.len()];
                unpack(&dense, &mut back, stride);
                assert!((0..words).all(|k| back[k * stride] == row[k * stride]));
            }
        }
    }

    #[test]
    fn a_tile_is_its_rows_on_every_instruction_set() {
        for words in [1, 4, 5, 13, 160] {
            let code = |i: usize| ((i * i + i / 7) % 3) as u32;
            let word = |k: usize| (0..16).map(|j| code(16 * k + j) << (2 * j)).sum();
            let canonical: Vec<u32> = (0..words * TILE_ROWS).map(word).collect();
            let mut dense = vec![0; width(16 * words) * TILE_ROWS];
            (0..TILE_ROWS).for_each(|lane| pack(&canonical[lane..], &mut dense[lane..], TILE_ROWS));
            for isa in Isa::available() {
                let mut back = vec![7; canonical.len()];
                unpack_tile(isa, &dense, &mut back);
                assert_eq!(back, canonical, "{isa}: {words} words");
            }
        }
    }
}
