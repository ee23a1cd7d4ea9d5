//! Between codes that run on from row to row and codes whose rows start on whole words.

use crate::crumbs::ZERO_TRITS;
use crate::{CODES_PER_WORD, words_per_row};

/// The 16 codes that start at code `at` of a flat sequence; past its end they are 0.
fn word_at(words: &[u32], at: usize) -> u32 {
    let (index, shift) = (at / CODES_PER_WORD, 2 * (at % CODES_PER_WORD));
    let low = words.get(index).copied().unwrap_or(0);
    let high = words.get(index + 1).copied().unwrap_or(0);
    ((u64::from(low) | u64::from(high) << 32) >> shift) as u32
}

/// Flat codes, `rows * cols` of them and nothing in between, to rows padded with code 1.
pub(crate) fn to_rows(flat: &[u32], rows: usize, cols: usize) -> Vec<u32> {
    let starts = |row: usize| (0..cols).step_by(CODES_PER_WORD).map(move |col| (row * cols + col, cols - col));
    (0..rows)
        .flat_map(starts)
        .map(|(at, left)| match word_at(flat, at) {
            word if left < CODES_PER_WORD => {
                let used = u32::MAX >> (32 - 2 * left);
                word & used | ZERO_TRITS & !used
            }
            word => word,
        })
        .collect()
}

/// Rows padded to whole words to flat codes; the last word is filled up with code 0.
pub(crate) fn to_flat(words: &[u32], rows: usize, cols: usize) -> Vec<u32> {
    let mut flat = vec![0u32; (rows * cols).div_ceil(CODES_PER_WORD)];
    for (row, words) in words.chunks_exact(words_per_row(cols)).enumerate() {
        for (i, word) in words.iter().enumerate() {
            let left = cols - i * CODES_PER_WORD;
            let word = if left < CODES_PER_WORD { word & (u32::MAX >> (32 - 2 * left)) } else { *word };
            let at = row * cols + i * CODES_PER_WORD;
            let spread = u64::from(word) << (2 * (at % CODES_PER_WORD));
            flat[at / CODES_PER_WORD] |= spread as u32;
            // What spills over into a word that does not exist is past the last code, and 0.
            if let Some(next) = flat.get_mut(at / CODES_PER_WORD + 1) {
                *next |= (spread >> 32) as u32;
            }
        }
    }
    flat
}
