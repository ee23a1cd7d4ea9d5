//! The multipliers that turn trits back into weights.

use std::fmt;

use crate::TernaryError;

/// The multiplier of each weight: `weight = scale * trit`.
///
/// Scales always multiply. A file that stores the divisor (`1 / absmean`) is inverted by whoever reads it. Every value
/// is finite and not negative; zero is legal (a block of zeros has the scale zero in several formats).
#[derive(Debug, Clone, PartialEq)]
pub enum Scale {
    /// One multiplier for the whole matrix.
    Tensor(f32),
    /// One multiplier a row, `[rows]`.
    Row(Vec<f32>),
    /// One multiplier for each `size` consecutive columns of a row.
    Group {
        /// Columns a group; the last group of a row may be shorter.
        size: usize,
        /// Row-major `[rows, ceil(cols / size)]`.
        values: Vec<f32>,
    },
}

/// How many weights share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// All of them.
    Tensor,
    /// Those of a row.
    Row,
    /// This many consecutive columns of a row.
    Group(usize),
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor => write!(f, "one scale for the tensor"),
            Self::Row => write!(f, "one scale a row"),
            Self::Group(size) => write!(f, "one scale every {size} columns"),
        }
    }
}

impl Scale {
    /// How many weights share a scale.
    pub fn granularity(&self) -> Granularity {
        match self {
            Self::Tensor(_) => Granularity::Tensor,
            Self::Row(_) => Granularity::Row,
            Self::Group { size, .. } => Granularity::Group(*size),
        }
    }

    /// The multipliers in storage order.
    pub fn values(&self) -> &[f32] {
        match self {
            Self::Tensor(value) => std::slice::from_ref(value),
            Self::Row(values) | Self::Group { values, .. } => values,
        }
    }

    /// The multiplier of one element of a matrix with `cols` columns.
    ///
    /// # Panics
    /// If the position lies outside the matrix this scale belongs to.
    pub fn at(&self, row: usize, col: usize, cols: usize) -> f32 {
        match self {
            Self::Tensor(value) => *value,
            Self::Row(values) => values[row],
            Self::Group { size, values } => values[row * cols.div_ceil(*size) + col / size],
        }
    }

    /// Whether each run of `block` columns, counted from the start of a row of `cols`, has a single multiplier.
    pub(crate) fn is_constant_in_blocks(&self, block: usize, cols: usize) -> bool {
        match self {
            Self::Tensor(_) | Self::Row(_) => true,
            Self::Group { size, .. } => size.is_multiple_of(block) || *size >= cols,
        }
    }

    /// Checks count and values against a matrix of `rows` x `cols` (both non-zero).
    pub(crate) fn check(&self, rows: usize, cols: usize) -> Result<(), TernaryError> {
        let expected = match self {
            Self::Tensor(_) => 1,
            Self::Row(_) => rows,
            Self::Group { size: 0, .. } => return Err(TernaryError::EmptyGroup),
            // At most rows * cols, which the caller's shape check keeps from overflowing.
            Self::Group { size, .. } => rows * cols.div_ceil(*size),
        };
        let found = self.values().len();
        if found != expected {
            return Err(TernaryError::Length { what: "scales", rows, cols, expected, found });
        }
        match self.values().iter().position(|value| !is_scale(*value)) {
            Some(index) => Err(TernaryError::BadScale { index, value: self.values()[index] }),
            None => Ok(()),
        }
    }
}

/// Whether a number can be a scale: finite and not negative.
pub(crate) fn is_scale(value: f32) -> bool {
    value.is_finite() && value >= 0.0
}
