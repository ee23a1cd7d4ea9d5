//! Word-parallel moves of two-bit fields ("crumbs"), on which all the two-bit packings rest.
//!
//! The formats differ from the canonical order in one way only: a byte that holds four codes holds them from four
//! different places (rows, or columns 16 or 32 apart), while a canonical word holds 16 neighbours. Taking 16 bytes as a
//! 16 x 4 matrix of crumbs, the conversion is a transposition, done here with a few shifts and masks:
//!
//! ```text
//!            bits 1:0  3:2  5:4  7:6                   bits 1:0  3:2      ...      31:30
//!  byte  0      a0     b0   c0   d0        plane 0        a0     a1  a2  ...  a15
//!  byte  1      a1     b1   c1   d1        plane 1        b0     b1  b2  ...  b15
//!   ...                              <->   plane 2        c0     c1  c2  ...  c15
//!  byte 15      a15    b15  c15  d15       plane 3        d0     d1  d2  ...  d15
//! ```

/// Sixteen codes 1 (trit 0).
pub(crate) const ZERO_TRITS: u32 = 0x5555_5555;

/// Transposes two 4 x 4 matrices of crumbs: in each half of the word, crumb `j` of byte `i` goes to crumb `i` of byte `j`.
const fn transpose_pair(mut x: u64) -> u64 {
    // Swap the off-diagonal 2 x 2 quarters, then the off-diagonal crumbs of each quarter.
    let t = (x ^ (x >> 12)) & 0x0000_f0f0_0000_f0f0;
    x ^= t ^ (t << 12);
    let t = (x ^ (x >> 6)) & 0x00cc_00cc_00cc_00cc;
    x ^ t ^ (t << 6)
}

/// Transposes a 4 x 4 matrix of crumbs: crumb `j` of byte `i` goes to crumb `i` of byte `j`. Its own inverse.
pub(crate) const fn transpose(x: u32) -> u32 {
    transpose_pair(x as u64) as u32
}

/// Reorders bytes 0..8 to 0 4 1 5 2 6 3 7.
const fn riffle(mut x: u64) -> u64 {
    let t = (x ^ (x >> 16)) & 0x0000_0000_ffff_0000;
    x ^= t ^ (t << 16);
    let t = (x ^ (x >> 8)) & 0x0000_ff00_0000_ff00;
    x ^ t ^ (t << 8)
}

/// Reorders bytes 0 4 1 5 2 6 3 7 back to 0..8.
const fn unriffle(mut x: u64) -> u64 {
    let t = (x ^ (x >> 8)) & 0x0000_ff00_0000_ff00;
    x ^= t ^ (t << 8);
    let t = (x ^ (x >> 16)) & 0x0000_0000_ffff_0000;
    x ^ t ^ (t << 16)
}

/// Splits 16 bytes into four planes: crumb `i` of plane `q` is bits `2q+1:2q` of byte `i`.
#[inline(always)]
pub(crate) fn planes(bytes: &[u8; 16]) -> [u32; 4] {
    let all = u128::from_le_bytes(*bytes);
    // Sixteen-bit lane q of each half: its eight crumbs of plane q.
    let low = riffle(transpose_pair(all as u64));
    let high = riffle(transpose_pair((all >> 64) as u64));
    [0, 16, 32, 48].map(|shift| (low >> shift) as u16 as u32 | ((high >> shift) as u16 as u32) << 16)
}

/// Joins four planes into 16 bytes: the inverse of [`planes`].
#[inline]
pub(crate) fn join(planes: [u32; 4]) -> [u8; 16] {
    let (mut low, mut high) = (0u64, 0u64);
    for (q, plane) in planes.into_iter().enumerate() {
        low |= u64::from(plane & 0xffff) << (16 * q);
        high |= u64::from(plane >> 16) << (16 * q);
    }
    let (low, high) = (transpose_pair(unriffle(low)), transpose_pair(unriffle(high)));
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

/// Splits a row of bytes into the four rows of words it holds, each `ceil(bytes / 16)` long and padded with code 1.
#[inline(always)]
pub(crate) fn split_row(bytes: &[u8], rows: [&mut [u32]; 4]) {
    let (chunks, rest) = bytes.as_chunks::<16>();
    let [a, b, c, d] = rows;
    let words = a.iter_mut().zip(b.iter_mut()).zip(c.iter_mut()).zip(d.iter_mut());
    for (chunk, (((a, b), c), d)) in chunks.iter().zip(words) {
        [*a, *b, *c, *d] = planes(chunk);
    }
    if !rest.is_empty() {
        let mut padded = [ZERO_TRITS as u8; 16];
        padded[..rest.len()].copy_from_slice(rest);
        for (row, plane) in [a, b, c, d].into_iter().zip(planes(&padded)) {
            row[chunks.len()] = plane;
        }
    }
}

/// Joins four rows of `cols` codes into a row of bytes: the inverse of [`split_row`].
pub(crate) fn join_rows(rows: [&[u32]; 4], cols: usize, bytes: &mut Vec<u8>) {
    let end = bytes.len() + cols;
    let [a, b, c, d] = rows;
    for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
        bytes.extend_from_slice(&join([*a, *b, *c, *d]));
    }
    // The padding of the last word is no part of the row.
    bytes.truncate(end);
}

/// Whether any of the 16 codes of a word is 3.
pub(crate) const fn has_code_3(word: u32) -> bool {
    word & (word >> 1) & 0x5555_5555 != 0
}

/// Index of the first word with a code 3, and that code's place in it.
pub(crate) fn find_code_3(words: &[u32]) -> Option<(usize, usize)> {
    // One or-reduction a run, so that the usual answer (none) costs no branch a word.
    const RUN: usize = 1024;
    let run =
        words.chunks(RUN).position(|run| run.iter().fold(0, |seen, w| seen | (w & (w >> 1))) & 0x5555_5555 != 0)?;
    let index = run * RUN + words[run * RUN..].iter().position(|w| has_code_3(*w))?;
    let place = (words[index] & (words[index] >> 1) & 0x5555_5555).trailing_zeros() / 2;
    Some((index, place as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn planes_are_the_crumbs_of_each_byte(bytes: [u8; 16]) {
            let planes = planes(&bytes);
            for (i, byte) in bytes.iter().enumerate() {
                for (q, plane) in planes.iter().enumerate() {
                    prop_assert_eq!((plane >> (2 * i)) & 3, u32::from(byte >> (2 * q)) & 3);
                }
            }
            prop_assert_eq!(join(planes), bytes);
        }

        #[test]
        fn transpose_moves_each_crumb(x: u32) {
            let y = transpose(x);
            for i in 0..4 {
                for j in 0..4 {
                    prop_assert_eq!((y >> (8 * i + 2 * j)) & 3, (x >> (8 * j + 2 * i)) & 3);
                }
            }
            prop_assert_eq!(transpose(y), x);
        }

        #[test]
        fn the_first_code_3_is_found(length in 1usize..3000, at: prop::sample::Index, place in 0usize..16) {
            let mut words = vec![ZERO_TRITS; length];
            prop_assert_eq!(find_code_3(&words), None);
            let at = at.index(length);
            words[at] |= 3 << (2 * place);
            words[length - 1] |= 3 << 30;
            prop_assert_eq!(find_code_3(&words), Some((at, place)));
        }
    }
}
