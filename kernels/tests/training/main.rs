//! The operations of training on every compiled backend.
#![cfg(feature = "burn")]
#![cfg_attr(feature = "ndarray", expect(deprecated, reason = "kept as long as Burn has this backend"))]

#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "cube")]
mod devices;
mod golden;
mod reference;
mod traps;

use bitnet_kernels::DeviceKind;
use burn::tensor::Device;

/// Each compiled backend, with its name. Not a CPU through CubeCL, for which Burn's matrix product takes minutes to compile
/// and tune.
fn devices() -> Vec<(&'static str, Device)> {
    let mut infos = bitnet_kernels::devices().unwrap();
    infos.retain(|info| info.kind != DeviceKind::Cpu);
    infos.iter().map(|info| (info.kind.name(), bitnet_kernels::device(info.kind.name()).unwrap())).collect()
}
