//! Model files as named tensors.
//!
//! [`open`] maps a Hugging Face folder, a safetensors file, a GGUF file or a burnpack file and gives a [`Checkpoint`]: a configuration, named
//! tensors that are not read until asked for, and what there is of a tokenizer. Tensors have the same names and, once read,
//! the same meaning whatever the container: floats are dequantized, ternary weights come as trits with scales that
//! multiply, and rows are in Hugging Face order.
//!
//! Files come from strangers. Every count and length is held against the file before it is believed; a bad file is a
//! [`FormatError`] that names the file and the tensor or key.
//!
//! ```no_run
//! let model = bitnet_format::open("bitnet-b1.58-2B-4T")?;
//! let config = model.config();
//! let embedding = model.floats("model.embed_tokens.weight")?;
//! let q = model.ternary("model.layers.0.self_attn.q_proj", config.num_heads * config.head_dim, config.hidden_size)?;
//! # let _ = (embedding, q);
//! # Ok::<(), bitnet_format::FormatError>(())
//! ```

mod adapter;
mod atomic;
mod blob;
pub mod blocks;
mod burnpack;
mod checkpoint;
mod config;
pub mod convert;
mod embedding;
mod error;
pub mod export;
pub mod gguf;
#[cfg(feature = "hub")]
pub mod hub;
mod identity;
pub mod names;
mod prepared;
mod safetensors;
mod storage;
mod tensor_info;
mod tokenizer;

pub use bitnet_ternary::Packing;

pub use adapter::{Adapter, LowRank};
pub use blocks::BlockFormat;
pub use checkpoint::{Checkpoint, Container, FloatReader, Metadata, OpenOptions, Source, SourceFile, open, open_with};
pub use config::{Activation, ModelConfig, RopeScaling, ScaleDirection, SlidingWindow};
pub use embedding::{Pooling, TextEmbedding, UnknownPooling};
pub use error::FormatError;
pub use gguf::I2sLayout;
pub use prepared::{PreparedFile, PreparedWriter};
pub use safetensors::{SafetensorsTensorWriter, SafetensorsWriter};
pub use storage::StorageType;
pub use tensor_info::TensorInfo;
pub use tokenizer::{GgufTokenizer, TokenizerSource};
