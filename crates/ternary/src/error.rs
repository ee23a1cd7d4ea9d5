//! Everything that can be wrong with a ternary matrix, its scales or its bytes.

use crate::{Granularity, MAX_COLS, Packing};

/// Why a matrix, a scale or a packed tensor was refused. Positions are zero-based.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TernaryError {
    /// A matrix needs at least one row and one column.
    #[error("a ternary matrix of {rows} rows and {cols} columns has no elements")]
    Empty {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },

    /// The sizes overflow, or a row is too long for an exact i32 dot product.
    #[error(
        "a ternary matrix of {rows} rows and {cols} columns is too large (at most {MAX_COLS} columns, and the padded element count must fit an isize)"
    )]
    TooLarge {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },

    /// A slice does not have the length its shape calls for.
    #[error("{what}: expected {expected} for {rows} rows and {cols} columns, found {found}")]
    Length {
        /// What was counted, such as "code words".
        what: &'static str,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// How many the shape calls for.
        expected: usize,
        /// How many were given.
        found: usize,
    },

    /// A code word holds 3, which stands for no trit.
    #[error("code 3 at row {row}, column {col} stands for no trit")]
    BadCode {
        /// Row of the code.
        row: usize,
        /// Column of the code.
        col: usize,
    },

    /// The last word of a row is not padded with code 1.
    #[error("row {row} is not padded with code 1 (trit 0) to a whole word")]
    BadPadding {
        /// The row.
        row: usize,
    },

    /// A value given as a trit is none of -1, 0, +1.
    #[error("{value} at row {row}, column {col} is not a trit")]
    NotATrit {
        /// Row of the value.
        row: usize,
        /// Column of the value.
        col: usize,
        /// The value.
        value: i8,
    },

    /// A scale is not finite, or is negative.
    #[error("scale {index} is {value}; scales are finite and not negative")]
    BadScale {
        /// Index into the scale values (0 for a tensor scale).
        index: usize,
        /// The value.
        value: f32,
    },

    /// A group of no columns.
    #[error("a scale group needs at least one column")]
    EmptyGroup,

    /// A float to be quantized is NaN or infinite.
    #[error("weight at row {row}, column {col} (element {index}) is {value}")]
    NotFinite {
        /// Index in row-major order.
        index: usize,
        /// Row of the weight.
        row: usize,
        /// Column of the weight.
        col: usize,
        /// The value.
        value: f32,
    },

    /// A packing cannot hold a matrix of this shape.
    #[error("{packing} cannot hold {rows} rows of {cols} columns: {constraint}")]
    Shape {
        /// The packing.
        packing: Packing,
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
        /// What the shape has to satisfy.
        constraint: &'static str,
    },

    /// A packed tensor does not have the exact length its shape calls for.
    #[error("{packing}: {rows} rows of {cols} columns take {expected} bytes, found {found}")]
    PackedLength {
        /// The packing.
        packing: Packing,
        /// Rows of the tensor.
        rows: usize,
        /// Columns of the tensor.
        cols: usize,
        /// Bytes the shape calls for.
        expected: usize,
        /// Bytes given.
        found: usize,
    },

    /// A packed tensor holds the two-bit code 3.
    #[error("{packing}: code 3 at row {row}, column {col} {}", code_3_means(.packing))]
    PackedCode {
        /// The packing.
        packing: Packing,
        /// Row of the code.
        row: usize,
        /// Column of the code.
        col: usize,
    },

    /// A byte is not the base-3 code of any trits.
    #[error("{packing}: byte {offset} is {value:#04x}, which no trits encode to")]
    PackedByte {
        /// The packing.
        packing: Packing,
        /// Offset in the packed tensor.
        offset: usize,
        /// The byte.
        value: u8,
    },

    /// A scale stored in a packed tensor is not finite, or is negative.
    #[error("{packing}: the scale at byte {offset} is {value}; scales are finite and not negative")]
    PackedScale {
        /// The packing.
        packing: Packing,
        /// Offset of the scale in the packed tensor.
        offset: usize,
        /// The value.
        value: f32,
    },

    /// The matrix has finer scales than the packing stores.
    #[error("{packing} cannot hold {granularity}: {holds}")]
    ScaleNotHeld {
        /// The packing.
        packing: Packing,
        /// Granularity of the matrix.
        granularity: Granularity,
        /// What the packing stores instead.
        holds: &'static str,
    },

    /// A scale overflows f16, or vanishes in it.
    #[error("{packing} stores scales as f16, and {value:e} is out of its range")]
    ScaleOutOfRange {
        /// The packing.
        packing: Packing,
        /// The scale.
        value: f32,
    },
}

fn code_3_means(packing: &Packing) -> &'static str {
    match packing {
        Packing::Q2_0 { .. } => "means +2 scales in this format: the tensor is not ternary",
        _ => "stands for no trit",
    }
}
