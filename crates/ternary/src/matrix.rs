//! The canonical ternary matrix: two-bit codes in row-major words, and the scales beside them.

use crate::crumbs::{ZERO_TRITS, find_code_3};
use crate::scale::Scale;
use crate::{Granularity, TernaryError};

/// Codes in a `u32` of the canonical order.
pub const CODES_PER_WORD: usize = 16;

/// The longest row: one whose dot product with int8 activations fits an `i32` whatever the values.
pub const MAX_COLS: usize = i32::MAX as usize / 128;

/// Words a row of `cols` codes takes: `ceil(cols / 16)`.
pub fn words_per_row(cols: usize) -> usize {
    cols.div_ceil(CODES_PER_WORD)
}

/// A matrix of trits with its scales, in the canonical packed order.
///
/// Row-major `[rows, cols]` (rows are output features). A trit `t` is the code `t + 1`, so 0, 1 or 2. Sixteen codes
/// share a `u32`: element `j` of a word is its bits `2j+1:2j`. Each row starts a new word and its last word is filled
/// up with code 1 (trit 0).
///
/// ```text
///   a row of 18:   word 0                            word 1
///     bits         1:0  3:2  5:4   ...   31:30       1:0  3:2  5:4  ...  31:30
///     column        0    1    2    ...    15          16   17   -   ...    -
///                                                              (code 1)
/// ```
///
/// A matrix has at least one element and at most [`MAX_COLS`] columns, no code 3, proper padding, and as many scales,
/// all finite and not negative, as its granularity calls for: every constructor checks, so no user has to.
#[derive(Debug, Clone, PartialEq)]
pub struct TernaryMatrix {
    rows: usize,
    cols: usize,
    words: Vec<u32>,
    scale: Scale,
}

/// Checks that a shape is not empty and that no count derived from it overflows.
pub(crate) fn check_shape(rows: usize, cols: usize) -> Result<(), TernaryError> {
    if rows == 0 || cols == 0 {
        return Err(TernaryError::Empty { rows, cols });
    }
    // The padded element count bounds every other count: elements, words, scales, and the bytes of all of the packings.
    let padded = words_per_row(cols).checked_mul(CODES_PER_WORD).and_then(|row| row.checked_mul(rows));
    match padded {
        Some(padded) if cols <= MAX_COLS && isize::try_from(padded).is_ok() => Ok(()),
        _ => Err(TernaryError::TooLarge { rows, cols }),
    }
}

/// The bits of a row's last word that lie past its last column.
fn padding_mask(cols: usize) -> u32 {
    match cols % CODES_PER_WORD {
        0 => 0,
        used => u32::MAX << (2 * used),
    }
}

/// Packs up to 16 codes into a word, the rest of which is padding.
pub(crate) fn word_of(codes: impl Iterator<Item = u8>) -> u32 {
    let (mut word, mut bits) = (0u32, 0u32);
    for code in codes {
        word |= u32::from(code) << bits;
        bits += 2;
    }
    if bits < 32 { word | (ZERO_TRITS << bits) } else { word }
}

impl TernaryMatrix {
    /// Takes codes that are in canonical order already.
    ///
    /// # Errors
    /// If the shape is empty or too large, the number of words is not `rows * words_per_row(cols)`, a code is 3, a row
    /// is not padded with code 1, or the scales are of the wrong number, negative or not finite.
    pub fn from_words(rows: usize, cols: usize, words: Vec<u32>, scale: Scale) -> Result<Self, TernaryError> {
        check_shape(rows, cols)?;
        let per_row = words_per_row(cols);
        let (expected, found) = (rows * per_row, words.len());
        if found != expected {
            return Err(TernaryError::Length { what: "code words", rows, cols, expected, found });
        }
        let mask = padding_mask(cols);
        if mask != 0 {
            let padded = |row: &[u32]| row[per_row - 1] & mask == ZERO_TRITS & mask;
            if let Some(row) = words.chunks_exact(per_row).position(|row| !padded(row)) {
                return Err(TernaryError::BadPadding { row });
            }
        }
        if let Some((word, place)) = find_code_3(&words) {
            let (row, col) = (word / per_row, word % per_row * CODES_PER_WORD + place);
            return Err(TernaryError::BadCode { row, col });
        }
        scale.check(rows, cols)?;
        Ok(Self { rows, cols, words, scale })
    }

    /// Takes parts that a decoder has checked: canonical words with no code 3 and proper padding, and fitting scales.
    pub(crate) fn from_valid_parts(rows: usize, cols: usize, words: Vec<u32>, scale: Scale) -> Self {
        debug_assert!(Self::from_words(rows, cols, words.clone(), scale.clone()).is_ok());
        Self { rows, cols, words, scale }
    }

    /// Packs row-major trits `[rows, cols]`.
    ///
    /// # Errors
    /// If the shape is empty or too large, `trits` has another length, a value is none of -1, 0, +1, or the scales do
    /// not fit.
    pub fn from_trits(rows: usize, cols: usize, trits: &[i8], scale: Scale) -> Result<Self, TernaryError> {
        check_shape(rows, cols)?;
        let (expected, found) = (rows * cols, trits.len());
        if found != expected {
            return Err(TernaryError::Length { what: "trits", rows, cols, expected, found });
        }
        if let Some(index) = trits.iter().position(|t| !(-1..=1).contains(t)) {
            return Err(TernaryError::NotATrit { row: index / cols, col: index % cols, value: trits[index] });
        }
        scale.check(rows, cols)?;
        let words = trits
            .chunks_exact(cols)
            .flat_map(|row| row.chunks(CODES_PER_WORD))
            .map(|chunk| word_of(chunk.iter().map(|t| (t + 1) as u8)))
            .collect();
        Ok(Self { rows, cols, words, scale })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All code words, `[rows, words_per_row(cols)]`.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// The code words of one row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row_words(&self, row: usize) -> &[u32] {
        let per_row = words_per_row(self.cols);
        &self.words[row * per_row..][..per_row]
    }

    /// The multipliers.
    pub fn scale(&self) -> &Scale {
        &self.scale
    }

    /// One trit.
    ///
    /// # Panics
    /// If the position lies outside the matrix.
    pub fn trit(&self, row: usize, col: usize) -> i8 {
        assert!(col < self.cols, "column {col} of {}", self.cols);
        let word = self.row_words(row)[col / CODES_PER_WORD];
        code_at(word, col % CODES_PER_WORD) as i8 - 1
    }

    /// The trits of one row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row_trits(&self, row: usize) -> impl Iterator<Item = i8> + '_ {
        self.row_words(row)
            .iter()
            .flat_map(|word| (0..CODES_PER_WORD).map(|place| code_at(*word, place) as i8 - 1))
            .take(self.cols)
    }

    /// All trits, row-major `[rows, cols]`.
    pub fn trits(&self) -> Vec<i8> {
        (0..self.rows).flat_map(|row| self.row_trits(row)).collect()
    }

    /// The weights `scale * trit`, row-major `[rows, cols]`.
    pub fn to_f32(&self) -> Vec<f32> {
        (0..self.rows)
            .flat_map(|row| {
                self.row_trits(row)
                    .enumerate()
                    .map(move |(col, trit)| f32::from(trit) * self.scale.at(row, col, self.cols))
            })
            .collect()
    }

    /// The same trits under other scales.
    ///
    /// # Errors
    /// If the scales are of the wrong number, negative or not finite.
    pub fn with_scale(self, scale: Scale) -> Result<Self, TernaryError> {
        scale.check(self.rows, self.cols)?;
        Ok(Self { scale, ..self })
    }

    /// Rows, columns, code words and scales.
    pub fn into_parts(self) -> (usize, usize, Vec<u32>, Scale) {
        (self.rows, self.cols, self.words, self.scale)
    }

    /// The share of trits that are zero, from 0 to 1.
    pub fn zero_fraction(&self) -> f64 {
        // Codes 0 and 2 have a clear low bit, so the set low bits are the zeros, padding included.
        let ones: u64 = self.words.iter().map(|word| u64::from((word & ZERO_TRITS).count_ones())).sum();
        let padding = self.words.len() * CODES_PER_WORD - self.rows * self.cols;
        (ones - padding as u64) as f64 / (self.rows * self.cols) as f64
    }

    /// Reorders rows: row `r` of the result is row `source(r)` of this matrix. Row and group scales move along.
    ///
    /// # Panics
    /// If `source` names a row that is not there.
    pub fn permute_rows(&self, source: impl Fn(usize) -> usize) -> Self {
        let gather = |values: &[f32]| -> Vec<f32> {
            let per_row = values.len() / self.rows;
            (0..self.rows).flat_map(|row| &values[source(row) * per_row..][..per_row]).copied().collect()
        };
        let scale = match &self.scale {
            Scale::Tensor(value) => Scale::Tensor(*value),
            Scale::Row(values) => Scale::Row(gather(values)),
            Scale::Group { size, values } => Scale::Group { size: *size, values: gather(values) },
        };
        let words = (0..self.rows).flat_map(|row| self.row_words(source(row))).copied().collect();
        Self { rows: self.rows, cols: self.cols, words, scale }
    }

    /// How many weights share a scale.
    pub fn granularity(&self) -> Granularity {
        self.scale.granularity()
    }
}

/// Code `place` of a word.
fn code_at(word: u32, place: usize) -> u8 {
    (word >> (2 * place)) as u8 & 3
}
