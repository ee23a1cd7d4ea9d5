//! The GGUF container, versions 2 and 3: reading and writing.
//!
//! A file is a header, typed key/value metadata, a table of tensors, and their data, each tensor aligned. This module
//! knows the container alone; what a name or key means is decided by [`names`](crate::names) and the configuration.

mod layout;
mod reader;
mod types;
mod value;
mod writer;

pub use value::{Array, Metadata, Value};
pub use writer::{TensorWriter, Writer};

pub use layout::I2sLayout;

pub(crate) use layout::tensors;
pub(crate) use reader::{Header, parse};

/// Where tensor data is aligned when `general.alignment` is absent.
const DEFAULT_ALIGNMENT: u32 = 32;
