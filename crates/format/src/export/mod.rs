//! Whole models as files: GGUF, folders as Hugging Face lays them out, and burnpack.
//!
//! A [`Model`] says what will be written: configuration, tokenizer and the list of tensors. Their data is asked for one
//! tensor at a time, so memory is bounded by the largest. Trits and their scales are stored as they are given: nothing
//! is quantized or measured again on the way. What a format cannot hold is an error that names the tensor, or the part of the
//! configuration or tokenizer, and leaves nothing behind.
//!
//! ```no_run
//! use bitnet_format::export::{self, GgufOptions, Model};
//!
//! let source = bitnet_format::open("packed-folder")?;
//! let model = Model::of(&source, "packed-folder")?;
//! export::write_gguf(&model, &GgufOptions::default(), "model.gguf".as_ref(), false, |tensor| tensor.read(&source))?;
//! # Ok::<(), bitnet_format::FormatError>(())
//! ```

pub(crate) mod burnpack;
mod draft;
mod encode;
mod fidelity;
pub(crate) mod floats;
pub(crate) mod folder;
mod gguf;
pub(crate) mod gguf_keys;
mod hugging_face;
mod hugging_face_config;
pub(crate) mod plan;
mod sentence_transformers;
mod source;
mod vocabulary;
mod vocabulary_pieces;

use bitnet_ternary::TernaryMatrix;
use bytes::Bytes;

pub use burnpack::{BurnpackOptions, draft_burnpack, write_burnpack};
pub use draft::Draft;
pub use gguf::{Architecture, GgufOptions, draft_gguf, write_gguf};
pub use hugging_face::{HuggingFaceForm, HuggingFaceOptions, draft_hugging_face, write_hugging_face};

use crate::{FloatReader, ModelConfig, StorageType, TextEmbedding, TokenizerSource};

/// A model to be written. Its tensors are those of one decoder, with nothing missing and nothing left over: what
/// [`ModelConfig`] asks for, and optional parts (sub-norms, a head, norms of Q and K, a norm before each linear, norms after
/// attention and MLP) in every layer or in none.
#[derive(Debug, Clone)]
pub struct Model {
    /// Name of the model for those who look into the file.
    pub name: String,
    /// Hyperparameters. What is particular to the container it came from (`architecture`, `weight_scale`) is not taken over.
    /// Weights of norms are those that a norm multiplies by, so [`norm_offset`](ModelConfig::norm_offset) is 0.
    pub config: ModelConfig,
    /// How it makes one vector of a text; `None` for a language model.
    pub embedding: Option<TextEmbedding>,
    /// The tokenizer's files, the chat template among them.
    pub tokenizer: TokenizerSource,
    /// The tensors in the order in which their data is asked for.
    pub tensors: Vec<Tensor>,
}

/// A tensor before its data is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Canonical Hugging Face name, such as `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// Outermost dimension first: `[rows, cols]` of a matrix, which for a linear are `[out_features, in_features]`.
    pub shape: Vec<usize>,
    /// What its data will be.
    pub kind: TensorKind,
}

/// What a tensor's data will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorKind {
    /// Trits with scales, stored as the format's options say.
    Ternary,
    /// Numbers, stored as the format's options say.
    Floats,
    /// Bytes of a stored type, passed through. Not for ternary packings.
    Stored(StorageType),
}

/// The data of one tensor.
#[derive(Debug, Clone)]
pub enum TensorData {
    /// For [`TensorKind::Ternary`].
    Ternary(TernaryMatrix),
    /// For [`TensorKind::Floats`], row-major.
    Floats(Vec<f32>),
    /// For [`TensorKind::Floats`] too: they stay in their file and are written a few rows at a time.
    Reader(FloatReader),
    /// For [`TensorKind::Stored`].
    Stored(Bytes),
}

impl Tensor {
    /// A ternary matrix.
    pub fn ternary(name: impl Into<String>, rows: usize, cols: usize) -> Self {
        Self { name: name.into(), shape: vec![rows, cols], kind: TensorKind::Ternary }
    }

    /// Numbers.
    pub fn floats(name: impl Into<String>, shape: &[usize]) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), kind: TensorKind::Floats }
    }

    /// Bytes that are of type `storage` already.
    pub fn stored(name: impl Into<String>, shape: &[usize], storage: StorageType) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), kind: TensorKind::Stored(storage) }
    }
}
