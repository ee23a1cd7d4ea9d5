//! What the fuzz targets do with a stranger's bytes, and the inputs that they begin with.
//!
//! One module a target. `run` does everything with an input that the project could do with it, and panics where something
//! that must hold does not; `seeds` makes small inputs that are in order from the project's fixtures. A target that
//! needs several files takes them from one input, cut at bytes 0xff, which no UTF-8 has.

pub mod adapter;
pub mod blocks;
pub mod burnpack;
mod disk;
pub mod gguf;
pub mod pack;
pub mod quantize;
mod read;
pub mod safetensors;
pub mod template;
pub mod tokenizer;
pub mod tokenizer_json;
pub mod unpack;

use bitnet_ternary::Packing;

/// Inputs to begin with, by name.
pub type Seeds = Vec<(String, Vec<u8>)>;

/// A target's name and what makes its seeds.
type Target = (&'static str, fn() -> Seeds);

/// What each target begins with.
pub const SEEDS: [Target; 11] = [
    ("gguf", gguf::seeds),
    ("safetensors", safetensors::seeds),
    ("burnpack", burnpack::seeds),
    ("adapter", adapter::seeds),
    ("tokenizer", tokenizer::seeds),
    ("tokenizer_json", tokenizer_json::seeds),
    ("template", template::seeds),
    ("unpack", unpack::seeds),
    ("pack", pack::seeds),
    ("blocks", blocks::seeds),
    ("quantize", quantize::seeds),
];

/// Every packing.
pub(crate) const PACKINGS: [Packing; 11] = [
    Packing::HfPacked,
    Packing::I2S,
    Packing::I2SArm64,
    Packing::I2SFourRows,
    Packing::Tq1_0,
    Packing::Tq2_0,
    Packing::Iq2Bn,
    Packing::Iq2BnR4,
    Packing::Iq1Bn,
    Packing::Q2_0 { group: 64 },
    Packing::Q2_0 { group: 128 },
];

/// Cuts an input at its first `N - 1` bytes 0xff; what is not there is empty.
pub(crate) fn sections<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut parts = data.splitn(N, |byte| *byte == 0xff);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// The input that [`sections`] cuts into these.
pub(crate) fn joined(sections: &[&[u8]]) -> Vec<u8> {
    sections.join(&0xff)
}

/// Takes `N` bytes off the front, zeros where there are none.
pub(crate) fn take<const N: usize>(data: &mut &[u8]) -> [u8; N] {
    let (head, rest) = data.split_at(N.min(data.len()));
    *data = rest;
    let mut bytes = [0; N];
    bytes[..head.len()].copy_from_slice(head);
    bytes
}
