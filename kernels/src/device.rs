//! Devices by name: the one place that knows which backends this program was built with.

use burn::tensor::Device;

use crate::cpu::isa::Isa;
use crate::cpu::tiles::WeightOrder;

/// A backend that `--device` can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Burn's default CPU backend with this crate's kernels.
    Flex,
    /// The older CPU backend, with the same kernels.
    NdArray,
}

impl DeviceKind {
    const ALL: [DeviceKind; 2] = [DeviceKind::Flex, DeviceKind::NdArray];

    /// The name that [`device`] takes.
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Flex => "flex",
            DeviceKind::NdArray => "ndarray",
        }
    }

    /// The name of the device that is used when none is asked for: the first that this program was built with.
    pub fn default_name() -> &'static str {
        Self::ALL.into_iter().find(|kind| kind.is_compiled_in()).map_or("none", Self::name)
    }

    /// Whether this program was built with it.
    pub fn is_compiled_in(self) -> bool {
        match self {
            DeviceKind::Flex => cfg!(feature = "flex"),
            DeviceKind::NdArray => cfg!(feature = "ndarray"),
        }
    }
}

/// A device that this program can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The backend.
    pub kind: DeviceKind,
    /// What runs its ternary kernels.
    pub kernels: String,
}

/// The devices that this program can use, the default one first.
///
/// # Errors
/// When `BITNET_ISA` names an instruction set that this processor does not have.
pub fn devices() -> Result<Vec<DeviceInfo>, DeviceError> {
    let kernels = format!("native, {}", Isa::select()?);
    let compiled = DeviceKind::ALL.into_iter().filter(|kind| kind.is_compiled_in());
    Ok(compiled.map(|kind| DeviceInfo { kind, kernels: kernels.clone() }).collect())
}

/// The device of this name (`flex`, `ndarray`).
///
/// # Errors
/// When no backend has this name, when this program was built without it, or when `BITNET_ISA` names an instruction
/// set that this processor does not have.
pub fn device(name: &str) -> Result<Device, DeviceError> {
    Isa::select()?;
    let kind = DeviceKind::ALL.into_iter().find(|kind| kind.name() == name);
    match kind.ok_or_else(|| DeviceError::Unknown(name.to_string()))? {
        #[cfg(feature = "flex")]
        DeviceKind::Flex => Ok(Device::flex()),
        #[cfg(feature = "ndarray")]
        #[expect(deprecated, reason = "kept, thin, as long as Burn has this backend")]
        DeviceKind::NdArray => Ok(Device::ndarray()),
        #[allow(unreachable_patterns)]
        absent => Err(DeviceError::NotCompiledIn(absent.name())),
    }
}

/// Whether the native CPU kernels run on this device.
fn is_native(device: &Device) -> bool {
    let kinds = DeviceKind::ALL.into_iter().filter(|kind| kind.is_compiled_in());
    kinds.filter_map(|kind| self::device(kind.name()).ok()).any(|native| native == *device)
}

/// The order of packed words that the kernels of a device stream best.
pub fn weight_order(device: &Device) -> WeightOrder {
    if is_native(device) { WeightOrder::Tiles } else { WeightOrder::Rows }
}

/// The order with five trits in a byte, on devices whose kernels read it.
pub fn dense_weight_order(device: &Device) -> Option<WeightOrder> {
    is_native(device).then_some(WeightOrder::DenseTiles)
}

/// A device that is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No backend has this name.
    #[error("unknown device {0:?}: this program knows {known}", known = known())]
    Unknown(String),
    /// The program was built without it.
    #[error("this program was built without {0}: build it with `--features {0}`")]
    NotCompiledIn(&'static str),
    /// The kernels cannot run as asked.
    #[error(transparent)]
    Isa(#[from] crate::IsaError),
}

fn known() -> String {
    let names: Vec<_> = DeviceKind::ALL.into_iter().filter(|k| k.is_compiled_in()).map(DeviceKind::name).collect();
    names.join(", ")
}
