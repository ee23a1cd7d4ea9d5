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

use burn::tensor::Device;

/// Each compiled backend, with its name.
fn devices() -> Vec<(&'static str, Device)> {
    let infos = bitnet_kernels::devices().unwrap();
    infos.iter().map(|info| (info.kind.name(), bitnet_kernels::device(info.kind.name()).unwrap())).collect()
}
