//! Ternary operations on every Burn backend.
//!
//! [`TernaryOps`] is one trait over Burn's `Backend`: its default bodies are the portable reference, written with
//! Burn's own operations, and a backend overrides what it can do faster. The CPU backends share the slice kernels of
//! [`cpu`], which know nothing of Burn and pick their instruction set at run time. The functions of [`ops`] are the
//! same operations on `Tensor`, for use inside any Burn program.
//!
//! This is the only package of the workspace that names a backend. Without the `burn` feature only [`cpu`] is built.

#[cfg(target_endian = "big")]
compile_error!("packed words are read as little-endian bytes");

pub mod cpu;
#[cfg(feature = "cube")]
mod cube;

#[cfg(feature = "burn")]
mod backends;
#[cfg(feature = "burn")]
mod device;
pub mod environment;
mod notice;
#[cfg(feature = "burn")]
#[cfg_attr(feature = "ndarray", expect(deprecated, reason = "kept, thin, as long as Burn has this backend"))]
pub mod ops;
#[cfg(feature = "remote")]
mod remote;
#[cfg(feature = "burn")]
mod replay;

pub use cpu::code_rows::CodeRows;
pub use cpu::dense::RowFormat;
pub use cpu::gate::Gate;
pub use cpu::isa::{Isa, IsaError};
pub use cpu::kv_cache::{CacheFormat, UnknownCacheFormat};
pub use cpu::precision::Precision;
pub use cpu::tiles::WeightOrder;
#[cfg(feature = "burn")]
pub use device::{
    DeviceError, DeviceInfo, DeviceKind, RowStorage, dense_weight_order, device, devices, has_precision, is_processor,
    memory, row_storage, weight_order,
};
pub use notice::{notice, on_notice};
#[cfg(feature = "burn")]
pub use ops::TernaryOps;
#[cfg(feature = "burn")]
pub use ops::training::TrainingOps;
#[cfg(feature = "remote")]
pub use remote::{LendError, TOKEN as REMOTE_TOKEN, lend};
#[cfg(feature = "burn")]
pub use replay::{Recording, can_replay, record};
