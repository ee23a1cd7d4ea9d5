//! Tests of this room through its public API, in one program because linking is what costs.

mod attacks_gguf;
mod attacks_safetensors;
mod blocks;
mod burnpack;
mod common;
mod config_gguf;
mod config_hugging_face;
mod convert;
mod convert_families;
mod export;
mod export_safetensors;
mod families;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod hub_server;
mod moby;
mod paths;
mod properties;
mod reading;
mod writer;
