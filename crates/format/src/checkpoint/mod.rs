//! An open model: named tensors, configuration, metadata and tokenizer, whatever the container.

mod burnpack;
pub(crate) mod floats;
mod gguf;
mod hugging_face;
mod open;
mod ternary;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::blob::Blob;
use crate::tokenizer::{HfFiles, gguf_tokenizer};
use crate::{FormatError, ModelConfig, TensorInfo, TextEmbedding, TokenizerSource, embedding};

pub use floats::FloatReader;
#[cfg(feature = "hub")]
pub(crate) use open::split_name;
pub use open::{OpenOptions, open, open_with};

/// An open model. Nothing of its weights is read until it is asked for; what was opened stays mapped as long as this, or
/// any [`Bytes`] taken from it, lives.
///
/// Tensors go by their canonical Hugging Face name (`model.layers.0.mlp.up_proj.weight`) in every container.
#[derive(Debug)]
pub struct Checkpoint {
    source: Source,
    files: Vec<Blob>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    config: ModelConfig,
    metadata: Metadata,
    hf_files: HfFiles,
    notes: Vec<String>,
}

/// Which files a checkpoint consists of.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The container its tensors are in.
    pub container: Container,
    /// The files with tensors: one, or the shards in order.
    pub files: Vec<SourceFile>,
}

/// A file that holds tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceFile {
    /// Its path; of an embedded file, its name.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// A container of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// Safetensors with a `config.json` beside.
    Safetensors,
    /// GGUF.
    Gguf,
    /// Burn's container of a module's parameters, `.bpk`.
    Burnpack,
}

/// Everything a checkpoint says of itself that is not a tensor.
#[derive(Debug, Clone)]
pub enum Metadata {
    /// Of a GGUF file.
    Gguf(crate::gguf::Metadata),
    /// Of a Hugging Face folder.
    HuggingFace {
        /// `config.json`.
        config: serde_json::Value,
        /// `__metadata__` of the safetensors files, merged.
        header: std::collections::BTreeMap<String, String>,
    },
    /// Of a burnpack file.
    Burnpack {
        /// Texts by key, without the files of the tokenizer.
        texts: std::collections::BTreeMap<String, String>,
        /// Columns that share a scale, where the linears have one for each group of columns.
        group_size: Option<usize>,
    },
}

impl Metadata {
    /// The metadata as one JSON object. GGUF arrays longer than `max_array` are cut to their beginning, with type and count.
    pub fn to_json(&self, max_array: usize) -> serde_json::Value {
        match self {
            Self::Gguf(metadata) => {
                metadata.iter().map(|(key, value)| (key.to_string(), value.to_json(max_array))).collect()
            }
            Self::HuggingFace { config, header } => {
                serde_json::json!({ "config.json": config, "__metadata__": header })
            }
            Self::Burnpack { texts, .. } => {
                // The configuration is JSON itself.
                let json = |text: &String| serde_json::from_str(text).ok().filter(serde_json::Value::is_object);
                texts
                    .iter()
                    .map(|(key, text)| (key.clone(), json(text).unwrap_or_else(|| text.clone().into())))
                    .collect()
            }
        }
    }
}

impl Checkpoint {
    /// Opens a model compiled into the program: one `("name.gguf", bytes)`, or the files of a Hugging Face folder by name.
    ///
    /// # Errors
    ///
    /// As [`open`].
    pub fn from_memory(files: &[(&str, &'static [u8])]) -> Result<Self, FormatError> {
        open::from_memory(files, &OpenOptions::default())
    }

    /// The model's hyperparameters.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Everything the files say of themselves.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Which files were opened.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What a user should be told about the file, one line each: contradictions that were resolved, guesses that were made.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// A tensor by its Hugging Face name.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        Some(&self.tensors[*self.by_name.get(name)?])
    }

    /// A tensor's stored bytes, not copied.
    ///
    /// # Errors
    ///
    /// When there is no such tensor.
    pub fn bytes(&self, name: &str) -> Result<&[u8], FormatError> {
        Ok(self.stored_bytes(self.need(name)?))
    }

    /// A tensor's stored bytes as an owner of the mapping: cheap to clone, not copied, independent of this checkpoint's
    /// life.
    ///
    /// # Errors
    ///
    /// When there is no such tensor.
    pub fn shared_bytes(&self, name: &str) -> Result<Bytes, FormatError> {
        let info = self.need(name)?;
        let offset = info.offset as usize;
        Ok(self.files[info.file].bytes().slice(offset..offset + info.bytes as usize))
    }

    /// Tells the system that a tensor's pages are not needed any more; reading it again brings them back from the file. Does
    /// nothing for embedded models and unknown names.
    pub fn release(&self, name: &str) {
        if let Some(info) = self.info(name) {
            let offset = info.offset as usize;
            self.files[info.file].release(offset..offset + info.bytes as usize);
        }
    }

    /// [`release`](Self::release) for some of a tensor's bytes.
    pub(crate) fn release_part(&self, name: &str, bytes: std::ops::Range<usize>) {
        if let Some(info) = self.info(name) {
            let offset = info.offset as usize;
            self.files[info.file].release(offset + bytes.start..offset + bytes.end);
        }
    }

    /// What the checkpoint carries of its tokenizer.
    ///
    /// # Errors
    ///
    /// When a `tokenizer.*` key of a GGUF file has the wrong type, or its lists do not have one entry for each token.
    pub fn tokenizer_files(&self) -> Result<TokenizerSource, FormatError> {
        match &self.metadata {
            Metadata::Gguf(metadata) => gguf_tokenizer(self.files[0].path(), metadata),
            Metadata::HuggingFace { .. } | Metadata::Burnpack { .. } => Ok(self.hf_files.source()),
        }
    }

    /// How the model makes one vector of a text; `None` for a language model, which is not made for that.
    ///
    /// # Errors
    ///
    /// When it is made for that, but in a way that this project does not do.
    pub fn embedding(&self) -> Result<Option<TextEmbedding>, FormatError> {
        let file = self.files[0].path();
        match &self.metadata {
            Metadata::Gguf(metadata) => embedding::of_gguf(file, metadata, &self.config),
            Metadata::HuggingFace { .. } => {
                let folder = file.parent().unwrap_or(Path::new(""));
                embedding::of_hugging_face(folder, self.hf_files.sentence(), &self.config)
            }
            // Its architecture may be one of GGUF's, which says nothing of a head.
            Metadata::Burnpack { .. } if self.hf_files.sentence().is_empty() => Ok(None),
            Metadata::Burnpack { .. } => embedding::of_hugging_face(file, self.hf_files.sentence(), &self.config),
        }
    }

    fn need(&self, name: &str) -> Result<&TensorInfo, FormatError> {
        self.info(name).ok_or_else(|| FormatError::MissingTensor {
            file: self.source.files.first().map(|f| f.path.clone()).unwrap_or_default(),
            tensor: name.to_string(),
        })
    }

    /// The file of a tensor, for messages.
    fn path_of(&self, info: &TensorInfo) -> &Path {
        self.files[info.file].path()
    }

    /// An error that names a tensor and its file.
    fn refuse(&self, info: &TensorInfo, reason: impl Into<String>) -> FormatError {
        FormatError::tensor(self.path_of(info), &info.stored_name, reason)
    }

    /// The bytes of a tensor. The opener has checked that they lie inside the file.
    fn stored_bytes(&self, info: &TensorInfo) -> &[u8] {
        let offset = info.offset as usize;
        &self.files[info.file].bytes()[offset..offset + info.bytes as usize]
    }
}
