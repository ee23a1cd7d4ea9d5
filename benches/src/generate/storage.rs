//! The ways in which one and the same model can be stored.

use bitnet_format::blocks::QuantizeError;
use bitnet_format::{BlockFormat, StorageType};
use bitnet_ternary::Packing;
use half::{bf16, f16};

/// How a model is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// The container, and how it holds linears.
    pub format: Format,
    /// How it holds the embedding.
    pub embedding: Embedding,
    /// What a GGUF file says the model is.
    pub architecture: Architecture,
}

/// A container, and how it holds linears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A GGUF file with linears as bitnet.cpp stores them, which is how 2B-4T is published.
    #[value(name = "i2_s")]
    I2s,
    /// A GGUF file with linears as llama.cpp stores them.
    #[value(name = "tq2_0")]
    Tq2_0,
    /// A GGUF file with linears as ik_llama.cpp stores them.
    #[value(name = "iq2_bn")]
    Iq2Bn,
    /// The same, four rows interleaved.
    #[value(name = "iq2_bn_r4")]
    Iq2BnR4,
    /// A folder as Hugging Face transformers writes it, with linears packed into bytes.
    #[value(name = "hf-packed")]
    HfPacked,
    /// The same with linears as float masters, which a reader quantizes: another model than the others.
    #[value(name = "hf-master")]
    HfMaster,
}

/// How the embedding, which is also the head, is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Embedding {
    /// 16-bit IEEE float.
    F16,
    /// The upper half of a 32-bit float.
    Bf16,
    /// Blocks of 256 values in 6 bits each, with a scale for every 16. Only in GGUF files.
    #[value(name = "q6_k")]
    Q6K,
}

/// `general.architecture` of a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Architecture {
    /// 2B-4T's, which bitnet.cpp and ik_llama.cpp know.
    #[value(name = "bitnet-b1.58")]
    BitnetB158,
    /// An older one of the same tensors, the only one that llama.cpp knows.
    Bitnet,
}

impl From<Format> for Storage {
    /// The embedding and the architecture that published files of the format have.
    fn from(format: Format) -> Self {
        let embedding = if format.gguf().is_some() { Embedding::F16 } else { Embedding::Bf16 };
        Self { format, embedding, architecture: Architecture::BitnetB158 }
    }
}

impl Format {
    /// How a GGUF file of this format packs its linears, and its `general.file_type`; `None` for a folder.
    pub(super) fn gguf(self) -> Option<(Packing, u32)> {
        match self {
            Self::I2s => Some((Packing::I2S, 40)),
            Self::Tq2_0 => Some((Packing::Tq2_0, 37)),
            Self::Iq2Bn => Some((Packing::Iq2Bn, 137)),
            Self::Iq2BnR4 => Some((Packing::Iq2BnR4, 337)),
            Self::HfPacked | Self::HfMaster => None,
        }
    }
}

impl Embedding {
    /// Appends a row to `out`. A row of [`Embedding::Q6K`] is of whole blocks of 256.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn encode(self, row: &[f32], out: &mut Vec<u8>) -> Result<(), QuantizeError> {
        match self {
            Self::F16 => out.extend(row.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes())),
            Self::Bf16 => out.extend(row.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes())),
            Self::Q6K => BlockFormat::Q6_K.quantize_row(row, out)?,
        }
        Ok(())
    }
}

impl From<Embedding> for StorageType {
    fn from(embedding: Embedding) -> Self {
        match embedding {
            Embedding::F16 => Self::F16,
            Embedding::Bf16 => Self::BF16,
            Embedding::Q6K => Self::Q6_K,
        }
    }
}

impl Architecture {
    /// As the file spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::BitnetB158 => "bitnet-b1.58",
            Self::Bitnet => "bitnet",
        }
    }
}
