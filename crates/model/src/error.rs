//! What can go wrong with a model.

use bitnet_format::FormatError;
use bitnet_kernels::DeviceError;
use bitnet_ternary::TernaryError;

/// Why a model cannot be loaded or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file is not a model that can be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The device is not to be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Weights do not make a ternary matrix.
    #[error(transparent)]
    Ternary(#[from] TernaryError),
    /// The file needs something that this decoder does not do.
    #[error("{what} is not supported")]
    Unsupported {
        /// The tensor or setting.
        what: String,
    },
    /// A matrix does not have the shape that the configuration asks for.
    #[error("tensor {name} has shape {found:?}, the model needs {needed:?}")]
    MatrixShape {
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// `[rows, cols]` that the layer takes.
        needed: [usize; 2],
    },
    /// A vector does not have the length that the configuration asks for.
    #[error("tensor {name} has {found} values, the model needs {needed}")]
    Shape {
        /// The tensor.
        name: String,
        /// Values in it.
        found: usize,
        /// Values that the layer takes.
        needed: usize,
    },
    /// An adapter has a part for a linear that the model does not have, or of another shape.
    #[error("the adapter does not fit the model: {reason}")]
    Adapter {
        /// Which part, and why.
        reason: String,
    },
    /// A latent weight is NaN or infinite.
    #[error("a weight is not a finite number")]
    NotFinite,
    /// The device cannot hold the weights.
    #[error(
        "the weights need {needed} MB, and the device has {found} MB",
        needed = needed.div_ceil(1_000_000),
        found = found / 1_000_000
    )]
    Memory {
        /// Bytes of the weights.
        needed: u64,
        /// Bytes of the device.
        found: u64,
    },
    /// The device cannot hold the weights and the cache.
    #[error(
        "the weights and a cache for {tokens} tokens need {} MB ({} and {} MB), and the device has {} MB: ask for a \
         smaller context",
        weights.saturating_add(*cache).div_ceil(1_000_000), weights.div_ceil(1_000_000), cache.div_ceil(1_000_000),
        found / 1_000_000
    )]
    CacheMemory {
        /// Tokens of each sequence.
        tokens: usize,
        /// Bytes of the weights.
        weights: u64,
        /// Bytes of the cache.
        cache: u64,
        /// Bytes of the device.
        found: u64,
    },
    /// The device takes no tensor as large as a layer's keys.
    #[error(
        "a cache for {tokens} tokens needs {} MB in one tensor, and the device takes {} MB: ask for a smaller context or \
         fewer sequences",
        needed.div_ceil(1_000_000), found / 1_000_000
    )]
    CacheTensor {
        /// Tokens of each sequence.
        tokens: usize,
        /// Bytes of the keys of a layer.
        needed: u64,
        /// Bytes that the device takes.
        found: u64,
    },
    /// More positions than the cache may hold.
    #[error("{needed} tokens do not fit the context of {limit}")]
    ContextFull {
        /// The limit of the cache.
        limit: usize,
        /// Positions asked for.
        needed: usize,
    },
    /// A token that the embedding has no row for.
    #[error("token {token} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
}
