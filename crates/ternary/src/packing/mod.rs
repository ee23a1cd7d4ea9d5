//! How other programs store ternary matrices, byte for byte: a specification of each format, with pictures and worked bytes
//! that are run as tests.
//!
//! | packing | where it is found | a block | bits a trit | scales | shapes that it holds |
//! |---|---|---|---|---|---|
//! | [canonical words](#the-canonical-words) | memory, checkpoints of this project | 16 in a `u32` | 2 | apart | all |
//! | [`HfPacked`](Packing::HfPacked) | Hugging Face safetensors, dtype U8 | 4 rows in a byte | 2 | a tensor of their own | all |
//! | [`I2S`](Packing::I2S) | bitnet.cpp GGUF, type 36 | 128 in 32 bytes | 2 | one f32 at the end | 128 divides N * K |
//! | [`I2SArm64`](Packing::I2SArm64) | the same type, Arm builds since 2025-11 | 64 in 16 bytes | 2 | the same | 64 divides N * K |
//! | [`I2SFourRows`](Packing::I2SFourRows) | the same type, x86 without `ACT_PARALLEL` | 4 rows in a byte | 2 | the same | 4 divides N |
//! | [`Tq1_0`](Packing::Tq1_0) | llama.cpp GGUF, type 34 | 256 in 54 bytes | 1.69 | f16 a block | 256 divides K |
//! | [`Tq2_0`](Packing::Tq2_0) | llama.cpp GGUF, type 35 | 256 in 66 bytes | 2.06 | f16 a block | 256 divides K |
//! | [`Q2_0`](Packing::Q2_0) | llama.cpp GGUF, type 42 | 64 in 18 bytes | 2.25 | f16 a block | 64 divides K |
//! | | PrismML GGUF, types 42 and 142 | 128 in 34 bytes | 2.13 | f16 a block | 128 divides K |
//! | [`Iq2Bn`](Packing::Iq2Bn) | ik_llama.cpp GGUF, type 135 | 64 in 16 bytes | 2 | f32 a row | 64 divides K |
//! | [`Iq2BnR4`](Packing::Iq2BnR4) | ik_llama.cpp GGUF, type 335 | 4 rows of 64 in 64 bytes | 2 | f32 a row | and 4 divides N |
//! | [`Iq1Bn`](Packing::Iq1Bn) | ik_llama.cpp GGUF, type 134 | 64 in 13 bytes | 1.63 | f16 a row | 64 divides K |
//!
//! The pages: [`hf`], [`i2s`] (all three of its layouts), [`tq1_0`], [`tq2_0`], [`q2_0`], [`iq_bn`]. What they have in common:
//!
//! - A matrix has N rows (output features) and K columns (input features). *Element* `e` is row `e / K`, column `e % K`.
//! - A trit is -1, 0 or +1, its *code* the trit plus one. Code 3 means nothing, and every reader here refuses it.
//! - Scales multiply: weight = scale * trit.
//! - Numbers of several bytes are little-endian. Bits are counted from the low end; "bits 7:6" are the two high ones.
//! - Worked bytes are of the pattern `t(i) = ((i*i + i/3) mod 3) - 1`, with the division an integer one, which begins
//!   -1 0 0 0 1 1 1 -1 -1 and repeats: 9 divides no block, so a reader with another order sees something else.
//!
//! # The canonical words
//!
//! What every packing is decoded to, what kernels are given, and what this project's own checkpoints hold: `u32`s of 16
//! neighbours of a row, the first in the low bits. Each row begins with a new word and is filled up with code 1 (trit 0).
//!
//! ```text
//!   bits        31:30 ...  7:6   5:4   3:2   1:0        t(0..16)
//!   column       15   ...   3     2     1     0          codes  0 1 1 1  2 2 2 0  0 0 1 1  1 2 2 2
//!                                                        bytes    54       2a       50       a9
//! ```
//!
//! ```
//! use bitnet_ternary::{Scale, TernaryMatrix};
//!
//! let t: Vec<i8> = (0..18).map(|i| ((i * i + i / 3) % 3) as i8 - 1).collect();
//! let matrix = TernaryMatrix::from_trits(1, 18, &t, Scale::Tensor(1.0))?;
//! assert_eq!(matrix.words(), [0xa950_2a54, 0x5555_5550]);
//! # Ok::<(), bitnet_ternary::TernaryError>(())
//! ```

mod base3;
mod block_scale;
pub mod hf;
pub mod i2s;
pub mod iq_bn;
pub mod q2_0;
pub mod tq1_0;
pub mod tq2_0;

use std::fmt;

use crate::crumbs::find_code_3;
use crate::matrix::check_shape;
use crate::{CODES_PER_WORD, Scale, TernaryError, TernaryMatrix, words_per_row};

/// A byte layout of ternary matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Packing {
    /// Hugging Face `uint8`, four distant rows a byte; see [`hf`].
    HfPacked,
    /// bitnet.cpp I2_S as on every official file, 128 values in 32 bytes; see [`i2s`].
    I2S,
    /// I2_S as ARM builds of bitnet.cpp since 2025-11 quantize it, 64 values in 16 bytes; see [`i2s`].
    I2SArm64,
    /// I2_S as x86 builds of bitnet.cpp without `ACT_PARALLEL` quantize it, four rows a byte; see [`i2s`].
    I2SFourRows,
    /// llama.cpp TQ1_0, five trits a byte; see [`tq1_0`].
    Tq1_0,
    /// llama.cpp TQ2_0; see [`tq2_0`].
    Tq2_0,
    /// ik_llama.cpp IQ2_BN; see [`iq_bn`].
    Iq2Bn,
    /// ik_llama.cpp IQ2_BN with four rows interleaved; see [`iq_bn`].
    Iq2BnR4,
    /// ik_llama.cpp IQ1_BN, five trits a byte; see [`iq_bn`].
    Iq1Bn,
    /// llama.cpp and PrismML Q2_0; see [`q2_0`].
    Q2_0 {
        /// Elements a block: 64 (llama.cpp) or 128 (PrismML).
        group: usize,
    },
}

impl Packing {
    /// The bytes that a tensor of `rows` x `cols` takes.
    ///
    /// # Errors
    /// If the shape is empty or too large, or the packing cannot hold it (the error says what it needs).
    pub fn packed_len(self, rows: usize, cols: usize) -> Result<usize, TernaryError> {
        check_shape(rows, cols)?;
        if let Some(constraint) = self.violated(rows, cols) {
            return Err(TernaryError::Shape { packing: self, rows, cols, constraint });
        }
        let elements = rows * cols;
        let blocks = |elements_a_block: usize, bytes: usize| (elements / elements_a_block).checked_mul(bytes);
        let row_scales = |bytes: usize| rows.checked_mul(bytes);
        let length = match self {
            Self::HfPacked => rows.div_ceil(4).checked_mul(cols),
            Self::I2S | Self::I2SArm64 | Self::I2SFourRows => (elements / 4).checked_add(i2s::TAIL),
            Self::Tq1_0 => blocks(tq1_0::BLOCK, tq1_0::BLOCK_BYTES),
            Self::Tq2_0 => blocks(tq2_0::BLOCK, tq2_0::BLOCK_BYTES),
            Self::Iq2Bn | Self::Iq2BnR4 => blocks(iq_bn::BLOCK, iq_bn::IQ2_BLOCK_BYTES)
                .and_then(|bytes| bytes.checked_add(row_scales(iq_bn::IQ2_ROW_BYTES)?)),
            Self::Iq1Bn => blocks(iq_bn::BLOCK, iq_bn::IQ1_BLOCK_BYTES)
                .and_then(|bytes| bytes.checked_add(row_scales(iq_bn::IQ1_ROW_BYTES)?)),
            Self::Q2_0 { group } => blocks(group, q2_0::block_bytes(group)),
        };
        length.ok_or(TernaryError::TooLarge { rows, cols })
    }

    /// What the packing needs of a shape and does not get.
    fn violated(self, rows: usize, cols: usize) -> Option<&'static str> {
        let elements = rows * cols;
        let (holds, constraint) = match self {
            Self::HfPacked => (true, ""),
            Self::I2S => (elements.is_multiple_of(i2s::BLOCK), "rows * columns must be a multiple of 128"),
            Self::I2SArm64 => (elements.is_multiple_of(i2s::ARM_BLOCK), "rows * columns must be a multiple of 64"),
            Self::I2SFourRows => (rows.is_multiple_of(4), "the rows must be a multiple of 4"),
            Self::Tq1_0 | Self::Tq2_0 => (cols.is_multiple_of(256), "the columns must be a multiple of 256"),
            Self::Iq2Bn | Self::Iq1Bn => (cols.is_multiple_of(64), "the columns must be a multiple of 64"),
            Self::Iq2BnR4 => (
                cols.is_multiple_of(64) && rows.is_multiple_of(4),
                "the columns must be a multiple of 64 and the rows of 4",
            ),
            Self::Q2_0 { group: 64 } => (cols.is_multiple_of(64), "the columns must be a multiple of 64"),
            Self::Q2_0 { group: 128 } => (cols.is_multiple_of(128), "the columns must be a multiple of 128"),
            Self::Q2_0 { .. } => (false, "its groups are of 64 or 128"),
        };
        (!holds).then_some(constraint)
    }

    /// Reads a packed tensor of `rows` x `cols`.
    ///
    /// The scales come out as coarse as the values allow: where a format stores one for each block or row and all of
    /// them agree, the matrix gets [`Scale::Tensor`] (a stored zero beside nothing but zero trits agrees with
    /// anything); otherwise [`Scale::Group`] or [`Scale::Row`]. [`HfPacked`](Self::HfPacked) stores none and gives 1.
    ///
    /// # Errors
    /// If the packing cannot hold such a shape, `bytes` is not exactly [`packed_len`](Self::packed_len) long, or it
    /// holds a code 3, a byte that no trits encode to, or a scale that is negative or not finite (each with its place).
    pub fn decode(self, bytes: &[u8], rows: usize, cols: usize) -> Result<TernaryMatrix, TernaryError> {
        let expected = self.packed_len(rows, cols)?;
        let found = bytes.len();
        if found != expected {
            return Err(TernaryError::PackedLength { packing: self, rows, cols, expected, found });
        }
        let (words, scale) = match self {
            Self::HfPacked => (hf::decode(bytes, rows, cols), Scale::Tensor(1.0)),
            Self::I2S => i2s::decode::<{ i2s::BLOCK }>(self, bytes, rows, cols)?,
            Self::I2SArm64 => i2s::decode::<{ i2s::ARM_BLOCK }>(self, bytes, rows, cols)?,
            Self::I2SFourRows => i2s::decode_four_rows(self, bytes, rows, cols)?,
            Self::Tq1_0 => tq1_0::decode(self, bytes)?,
            Self::Tq2_0 => tq2_0::decode(self, bytes)?,
            Self::Iq2Bn => iq_bn::decode_iq2(self, bytes, rows, cols)?,
            Self::Iq2BnR4 => iq_bn::decode_iq2_r4(self, bytes, rows, cols)?,
            Self::Iq1Bn => iq_bn::decode_iq1(self, bytes, rows, cols)?,
            Self::Q2_0 { group } => q2_0::decode(self, bytes, group)?,
        };
        if let Some((word, place)) = find_code_3(&words) {
            let per_row = words_per_row(cols);
            let (row, col) = (word / per_row, word % per_row * CODES_PER_WORD + place);
            return Err(TernaryError::PackedCode { packing: self, row, col });
        }
        Ok(TernaryMatrix::from_valid_parts(rows, cols, words, scale))
    }

    /// Writes a matrix in this layout.
    ///
    /// The trits always come back; so do the scales, but for these: [`HfPacked`](Self::HfPacked) stores none (they are
    /// a tensor of their own there) and leaves them out; formats with f16 scales store the nearest f16; formats with a
    /// scale a block or row store 0 for one without a non-zero trit, as the programs they come from do.
    ///
    /// # Errors
    /// If the packing cannot hold the shape, its scales are coarser than the matrix's, or a scale is beyond f16 where
    /// that is what is stored.
    pub fn encode(self, matrix: &TernaryMatrix) -> Result<Vec<u8>, TernaryError> {
        let capacity = self.packed_len(matrix.rows(), matrix.cols())?;
        let mut bytes = Vec::with_capacity(capacity);
        match self {
            Self::HfPacked => hf::encode(matrix, &mut bytes),
            Self::I2S => i2s::encode::<{ i2s::BLOCK }>(self, matrix, &mut bytes)?,
            Self::I2SArm64 => i2s::encode::<{ i2s::ARM_BLOCK }>(self, matrix, &mut bytes)?,
            Self::I2SFourRows => i2s::encode_four_rows(self, matrix, &mut bytes)?,
            Self::Tq1_0 => tq1_0::encode(self, matrix, &mut bytes)?,
            Self::Tq2_0 => tq2_0::encode(self, matrix, &mut bytes)?,
            Self::Iq2Bn => iq_bn::encode_iq2(self, matrix, &mut bytes)?,
            Self::Iq2BnR4 => iq_bn::encode_iq2_r4(self, matrix, &mut bytes)?,
            Self::Iq1Bn => iq_bn::encode_iq1(self, matrix, &mut bytes)?,
            Self::Q2_0 { group } => q2_0::encode(self, matrix, group, &mut bytes)?,
        }
        debug_assert_eq!(bytes.len(), capacity);
        Ok(bytes)
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HfPacked => write!(f, "packed uint8"),
            Self::I2S => write!(f, "I2_S"),
            Self::I2SArm64 => write!(f, "I2_S (64-value blocks)"),
            Self::I2SFourRows => write!(f, "I2_S (four rows a byte)"),
            Self::Tq1_0 => write!(f, "TQ1_0"),
            Self::Tq2_0 => write!(f, "TQ2_0"),
            Self::Iq2Bn => write!(f, "IQ2_BN"),
            Self::Iq2BnR4 => write!(f, "IQ2_BN_R4"),
            Self::Iq1Bn => write!(f, "IQ1_BN"),
            Self::Q2_0 { group } => write!(f, "Q2_0 (groups of {group})"),
        }
    }
}
