//! Settings that are words.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bitnet_format::Activation;
use bitnet_ternary::Granularity;
use serde::{Deserialize, Serialize};

/// Serde by `Display` and `FromStr`.
macro_rules! spelled {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

spelled!(
    TokenizerChoice,
    ActivationChoice,
    StorageChoice,
    WeightsChoice,
    ScaleChoice,
    OptimizerKind,
    Packing,
    PrecisionChoice,
    Reduction
);

/// A word that a setting cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {expected}")]
pub struct UnknownWord {
    found: String,
    expected: &'static str,
}

/// The choice among `words` that `text` names.
pub(super) fn choose<T: Copy>(
    text: &str,
    words: &[(&'static str, T)],
    expected: &'static str,
) -> Result<T, UnknownWord> {
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    found.ok_or_else(|| UnknownWord { found: text.to_string(), expected })
}

/// A choice with a word for each value.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $expected:literal, $($(#[$doc:meta])* $variant:ident = $word:literal),*) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant),*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),* })
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                choose(text, &[$(($word, Self::$variant)),*], $expected)
            }
        }
    };
}

words!(
    /// What linears compute with.
    WeightsChoice, "`ternary` or `none`",
    /// Trits.
    Ternary = "ternary",
    /// Floats: the twin to compare with.
    None = "none"
);

words!(
    /// What embedding and head are stored in.
    StorageChoice, "`f32`, `f16` or `bf16`",
    /// Four bytes a value.
    F32 = "f32",
    /// IEEE half precision.
    F16 = "f16",
    /// bfloat16.
    Bf16 = "bf16"
);

words!(
    /// How weights change.
    OptimizerKind, "`adamw` or `muon`",
    /// AdamW for all.
    AdamW = "adamw",
    /// Muon for the matrices of the linears.
    Muon = "muon"
);

words!(
    /// What the rows of a batch are.
    #[derive(Default)]
    Packing, "`rows` or `documents`",
    /// Stretches of `context` targets, whichever documents they are of: nothing is cut off, but a document may go on in
    /// another row, without what came before.
    #[default]
    Rows = "rows",
    /// Whole documents, one a row; what is longer than the context is cut off. Each is seen as if it were alone.
    Documents = "documents"
);

words!(
    /// What the losses of a step's targets become.
    #[derive(Default)]
    Reduction, "`mean` or `sum`",
    /// Their mean.
    #[default]
    Mean = "mean",
    /// Their sum: a step with more targets goes further.
    Sum = "sum"
);

words!(
    /// What the float products of linears take their operands in, those of the backward pass among them.
    #[derive(Default)]
    PrecisionChoice, "`f32` or `bf16`",
    /// As they are.
    #[default]
    F32 = "f32",
    /// Rounded to bfloat16. Weights, optimizer, sums and the exact product of a ternary layer stay as they are.
    Bf16 = "bf16"
);

/// The gate's function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivationChoice(pub Activation);

impl fmt::Display for ActivationChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Activation::Relu2 => "relu2",
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu",
        })
    }
}

impl FromStr for ActivationChoice {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let words = [("relu2", Activation::Relu2), ("silu", Activation::Silu)];
        choose(text, &words, "`relu2` or `silu`").map(Self)
    }
}

/// Weights that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleChoice(pub Granularity);

impl fmt::Display for ScaleChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Granularity::Tensor => f.write_str("tensor"),
            Granularity::Row => f.write_str("row"),
            Granularity::Group(size) => write!(f, "group:{size}"),
        }
    }
}

impl FromStr for ScaleChoice {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let group = text.strip_prefix("group:").and_then(|size| size.parse::<usize>().ok());
        match group.filter(|size| *size > 0 && size.is_multiple_of(16)) {
            Some(size) => Ok(Self(Granularity::Group(size))),
            None => {
                let words = [("tensor", Granularity::Tensor), ("row", Granularity::Row)];
                choose(text, &words, "`tensor`, `row` or `group:N` with N a multiple of 16").map(Self)
            }
        }
    }
}

/// Where the tokenizer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerChoice {
    /// The 256 bytes.
    Bytes,
    /// Merges learned from the data, until there are so many tokens.
    Bpe(usize),
    /// That of the model which is trained further.
    Model,
    /// A `tokenizer.json`.
    File(PathBuf),
}

impl fmt::Display for TokenizerChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes => f.write_str("bytes"),
            Self::Model => f.write_str("model"),
            Self::Bpe(size) => write!(f, "bpe:{size}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl FromStr for TokenizerChoice {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "bytes" => return Ok(Self::Bytes),
            "model" => return Ok(Self::Model),
            _ => {}
        }
        match text.strip_prefix("bpe:") {
            Some(size) => size.parse().map(Self::Bpe).map_err(|_| UnknownWord {
                found: text.to_string(),
                expected: "`bytes`, `bpe:` and a number of tokens, or the path of a tokenizer.json",
            }),
            None => Ok(Self::File(Path::new(text).to_path_buf())),
        }
    }
}
