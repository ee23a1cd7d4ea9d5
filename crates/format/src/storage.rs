//! How the numbers of a tensor are stored.

use std::fmt;

use bitnet_ternary::Packing;

use crate::blocks::BlockFormat;

/// The stored type of a tensor. `Display` gives the name the field uses (`BF16`, `Q6_K`, `I2_S`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[allow(non_camel_case_types)] // the field's own names
pub enum StorageType {
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// The upper half of an `F32`.
    BF16,
    /// 64-bit IEEE float.
    F64,
    /// 8-bit signed integer.
    I8,
    /// 16-bit signed integer.
    I16,
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
    /// One byte a truth value.
    Bool,
    /// 8-bit unsigned integer. A Hugging Face BitNet linear packs four rows into one such byte.
    U8,
    /// 16-bit unsigned integer.
    U16,
    /// 32-bit unsigned integer.
    U32,
    /// 64-bit unsigned integer.
    U64,
    /// See [`BlockFormat::Q8_0`].
    Q8_0,
    /// See [`BlockFormat::Q6_K`].
    Q6_K,
    /// See [`BlockFormat::Q4_0`].
    Q4_0,
    /// See [`BlockFormat::Q5_0`].
    Q5_0,
    /// See [`BlockFormat::Q3_K`].
    Q3_K,
    /// See [`BlockFormat::Q4_K`].
    Q4_K,
    /// See [`BlockFormat::IQ4_NL`].
    IQ4_NL,
    /// Ternary codes in a layout of their own, scales included.
    Ternary(Packing),
}

impl StorageType {
    /// The block format of a block-quantized float type.
    pub fn block_format(self) -> Option<BlockFormat> {
        match self {
            Self::Q8_0 => Some(BlockFormat::Q8_0),
            Self::Q6_K => Some(BlockFormat::Q6_K),
            Self::Q4_0 => Some(BlockFormat::Q4_0),
            Self::Q5_0 => Some(BlockFormat::Q5_0),
            Self::Q3_K => Some(BlockFormat::Q3_K),
            Self::Q4_K => Some(BlockFormat::Q4_K),
            Self::IQ4_NL => Some(BlockFormat::IQ4_NL),
            _ => None,
        }
    }

    /// Bytes of one element of a plain (not blocked, not ternary) type.
    pub fn element_bytes(self) -> Option<usize> {
        match self {
            Self::I8 | Self::U8 | Self::Bool => Some(1),
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => Some(2),
            Self::F32 | Self::I32 | Self::U32 => Some(4),
            Self::F64 | Self::I64 | Self::U64 => Some(8),
            _ => None,
        }
    }

    /// Bytes a tensor of `shape` (outermost first) takes, or `None` when the size overflows or the rows do not divide
    /// into this type's blocks.
    pub fn byte_len(self, shape: &[usize]) -> Option<usize> {
        let (cols, outer) = match shape.split_last() {
            Some((cols, outer)) => (*cols, outer),
            None => (1, shape),
        };
        let rows = outer.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
        if let Self::Ternary(packing) = self {
            return packing.packed_len(rows, cols).ok();
        }
        let row = match self.block_format() {
            Some(block) => block.row_bytes(cols)?,
            None => cols.checked_mul(self.element_bytes()?)?,
        };
        rows.checked_mul(row)
    }

    /// Whether it is I2_S, in any of its layouts.
    pub fn is_i2s(self) -> bool {
        matches!(self, Self::Ternary(Packing::I2S | Packing::I2SArm64 | Packing::I2SFourRows))
    }

    /// Whether [`Checkpoint::floats`](crate::Checkpoint::floats) can read it.
    pub fn is_readable_as_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16 | Self::F64 | Self::Ternary(_))
            || self.block_format().is_some()
    }
}

impl From<BlockFormat> for StorageType {
    fn from(block: BlockFormat) -> Self {
        match block {
            BlockFormat::Q8_0 => Self::Q8_0,
            BlockFormat::Q6_K => Self::Q6_K,
            BlockFormat::Q4_0 => Self::Q4_0,
            BlockFormat::Q5_0 => Self::Q5_0,
            BlockFormat::Q3_K => Self::Q3_K,
            BlockFormat::Q4_K => Self::Q4_K,
            BlockFormat::IQ4_NL => Self::IQ4_NL,
        }
    }
}

impl fmt::Display for StorageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ternary(packing) => write!(f, "{packing}"),
            plain => fmt::Debug::fmt(plain, f),
        }
    }
}
