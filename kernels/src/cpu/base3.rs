//! A denser order of packed words: five trits in a byte, 1.6 bits a weight, for machines that wait for their memory.
//!
//! Four words of a row, 16 bytes, hold 80 columns. A byte is `86 c4 + 27 c3 + 9 c2 + 3 c1 + c0`, of codes from 0 to 2:
//!
//! ```text
//! word i, byte j     c0 .. c3: columns 16 i + 4 j .. + 3                       c4: column 64 + 4 j + i
//! ```
//!
//! So a table turns word `i` into word `i` of the canonical order, and the fifth codes of the four words are the planes of
//! canonical word 4. With 86 in place of 81 the fifth code is `(3 * byte) >> 8`. Rows are padded to whole 80 columns; tiles
//! are as in [`super::tiles`].

use super::tiles::TILE_ROWS;

/// Columns of four words.
pub(crate) const COLUMNS: usize = 80;

/// Words of 80 columns.
pub(crate) const WORDS: usize = 4;

/// Canonical words of 80 columns.
pub(crate) const CANONICAL: usize = 5;

/// What a byte adds for its fifth code.
const FIFTH: u8 = 86;

/// The four low codes of a byte, two bits each.
pub(crate) static CODES: [u8; 256] = codes();

/// The byte of four codes, two bits each, the fifth being 0. No code is 3.
static BYTES: [u8; 256] = bytes();

const fn codes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let low = byte % FIFTH as usize;
        let codes = [low % 3, low / 3 % 3, low / 9 % 3, low / 27 % 3];
        table[byte] = (codes[0] | (codes[1] << 2) | (codes[2] << 4) | (codes[3] << 6)) as u8;
        byte += 1;
    }
    table
}

const fn bytes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut codes = 0;
    while codes < 256 {
        table[codes] = ((codes & 3) + 3 * (codes >> 2 & 3) + 9 * (codes >> 4 & 3) + 27 * (codes >> 6)) as u8;
        codes += 1;
    }
    table
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
            let bytes = std::array::from_fn(|j| BYTES[usize::from(codes[j])] + FIFTH * (fifths[j] & 3));
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

/// A whole tile in canonical codes, `canonical` being as many words as there are columns for.
pub(crate) fn unpack_tile(dense: &[u32], canonical: &mut [u32]) {
    for lane in 0..TILE_ROWS {
        unpack(&dense[lane..], &mut canonical[lane..], TILE_ROWS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_in_use_come_back_and_the_fifth_code_is_a_multiplication_away() {
        for fifth_code in 0..3u8 {
            for low in 0..81u8 {
                let byte = FIFTH * fifth_code + low;
                assert_eq!(BYTES[usize::from(CODES[usize::from(byte)])], low);
                assert_eq!(fifth(byte), fifth_code);
            }
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
}
