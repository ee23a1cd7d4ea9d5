//! Ternary matrices: codes, scales, quantizers, on-disk packings and the exact integer matmul.
//!
//! A BitNet b1.58 weight matrix is `scale * trit` with every trit in {-1, 0, +1}. This crate says what such a matrix
//! is ([`TernaryMatrix`]), how one is made from floats ([`quantize`]), how other programs store one ([`packing`]) and what
//! multiplying by one must give, to the bit ([`mod@reference`]). It knows nothing of tensor libraries, files or devices.
//!
//! The pages of [`packing`] are also the written specification of each format: [I2_S](packing::i2s) in its three layouts, TQ1_0,
//! TQ2_0, Q2_0, IQ1_BN, IQ2_BN and its four-row form, Hugging Face's packed bytes, and the canonical words.
//!
//! ```
//! use bitnet_ternary::{Granularity, Packing, quantize, reference};
//!
//! let weights = [0.5, -0.2, 0.05, -1.0, 0.3, 0.9, -0.4, 0.0];
//! let matrix = quantize::absmean(&weights, 2, 4, Granularity::Tensor)?;
//! assert_eq!(matrix.trits(), [1, 0, 0, -1, 1, 1, -1, 0]);
//!
//! let output = reference::linear(&[1.0, -2.0, 0.5, 0.013], 1, &matrix);
//! assert!((output[0] - 0.41545).abs() < 1e-5 && (output[1] + 0.62648).abs() < 1e-5);
//!
//! let bytes = Packing::HfPacked.encode(&matrix)?;
//! assert_eq!(Packing::HfPacked.decode(&bytes, 2, 4)?.words(), matrix.words());
//! # Ok::<(), bitnet_ternary::TernaryError>(())
//! ```

mod crumbs;
mod error;
mod fresh;
mod matrix;
pub mod packing;
pub mod quantize;
mod realign;
pub mod reference;
mod scale;
mod wide;

pub use error::TernaryError;
pub use fresh::{Zero, zeroed};
pub use matrix::{CODES_PER_WORD, MAX_COLS, TernaryMatrix, words_per_row};
pub use packing::Packing;
pub use scale::{Granularity, Scale};
