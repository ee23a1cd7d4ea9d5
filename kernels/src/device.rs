//! Devices by name: the one place that knows which backends this program was built with.

use burn::tensor::Device;

use crate::cpu::isa::Isa;
use crate::cpu::precision::Precision;
use crate::cpu::tiles::WeightOrder;
use crate::environment::{EnvironmentError, Variable};

/// A backend that `--device` can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Burn's default CPU backend with this crate's kernels.
    Flex,
    /// The older CPU backend, with the same kernels.
    NdArray,
    /// CubeCL's own CPU runtime.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
    /// AMD GPUs.
    Rocm,
    /// Apple GPUs.
    Metal,
    /// GPUs through Vulkan.
    Vulkan,
    /// GPUs through WebGPU, on whatever the system has.
    WebGpu,
    /// What another process lends; it has no name without that one's address, and so is never listed.
    Remote,
}

impl DeviceKind {
    const ALL: [DeviceKind; 9] = [
        Self::Flex,
        Self::NdArray,
        Self::Cpu,
        Self::Cuda,
        Self::Rocm,
        Self::Metal,
        Self::Vulkan,
        Self::WebGpu,
        Self::Remote,
    ];

    /// The name that [`device`] takes, and of the feature that it comes with.
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Flex => "flex",
            DeviceKind::NdArray => "ndarray",
            DeviceKind::Cpu => "cpu",
            DeviceKind::Cuda => "cuda",
            DeviceKind::Rocm => "rocm",
            DeviceKind::Metal => "metal",
            DeviceKind::Vulkan => "vulkan",
            DeviceKind::WebGpu => "webgpu",
            DeviceKind::Remote => "remote",
        }
    }

    /// The name of the device that is used when none is asked for: the first that this program was built with.
    pub fn default_name() -> &'static str {
        Self::compiled().next().map_or("none", Self::name)
    }

    /// Whether this program was built with it.
    pub fn is_compiled_in(self) -> bool {
        match self {
            DeviceKind::Flex => cfg!(feature = "flex"),
            DeviceKind::NdArray => cfg!(feature = "ndarray"),
            DeviceKind::Cpu => cfg!(feature = "cpu"),
            DeviceKind::Cuda => cfg!(feature = "cuda"),
            DeviceKind::Rocm => cfg!(feature = "rocm"),
            DeviceKind::Metal => cfg!(feature = "metal"),
            DeviceKind::Vulkan => cfg!(feature = "vulkan"),
            DeviceKind::WebGpu => cfg!(feature = "webgpu"),
            DeviceKind::Remote => cfg!(feature = "remote"),
        }
    }

    /// Whether the native CPU kernels run there.
    fn is_native(self) -> bool {
        matches!(self, DeviceKind::Flex | DeviceKind::NdArray)
    }

    fn compiled() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|kind| kind.is_compiled_in())
    }

    /// The devices of this kind that the machine has.
    fn found(self) -> Vec<Device> {
        match self {
            #[cfg(feature = "flex")]
            DeviceKind::Flex => vec![Device::flex()],
            #[cfg(feature = "ndarray")]
            #[expect(deprecated, reason = "kept, thin, as long as Burn has this backend")]
            DeviceKind::NdArray => vec![Device::ndarray()],
            #[cfg(feature = "cpu")]
            DeviceKind::Cpu => vec![Device::cpu()],
            #[cfg(feature = "cuda")]
            DeviceKind::Cuda => Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec(),
            #[cfg(feature = "rocm")]
            DeviceKind::Rocm => Device::enumerate(burn::tensor::DeviceType::Rocm).into_vec(),
            #[cfg(feature = "metal")]
            DeviceKind::Metal => Device::enumerate(burn::tensor::DeviceType::Metal).into_vec(),
            #[cfg(feature = "vulkan")]
            DeviceKind::Vulkan => Device::enumerate(burn::tensor::DeviceType::Vulkan).into_vec(),
            #[cfg(all(feature = "webgpu", target_family = "wasm"))]
            DeviceKind::WebGpu => Device::enumerate(burn::tensor::DeviceType::WebGpu).into_vec(),
            // Outside a browser wgpu stands on what the system has: Vulkan, Metal or Direct3D.
            #[cfg(all(feature = "webgpu", not(target_family = "wasm")))]
            DeviceKind::WebGpu => Device::enumerate(burn::tensor::DeviceType::Wgpu).into_vec(),
            #[allow(unreachable_patterns)]
            _ => Vec::new(),
        }
    }
}

/// A device that this program can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The backend.
    pub kind: DeviceKind,
    /// What [`device`] takes: the name of the backend, and `:n` from the second device on.
    pub name: String,
    /// What runs its ternary kernels.
    pub kernels: String,
    /// What it does by itself, of what those could use: `dp4a` (four bytes multiplied at once), `int8 matrix units`, `16-bit
    /// matrix units`, `f16` (arithmetic), `replay` (of recorded launches). Empty for the native kernels, whose instruction
    /// set says it all.
    pub natively: Vec<&'static str>,
}

/// The devices that this program can use on this machine, the default one first.
///
/// # Errors
/// When `BITNET_ISA` names an instruction set that this processor does not have, or another variable says what cannot be
/// understood.
pub fn devices() -> Result<Vec<DeviceInfo>, DeviceError> {
    check_environment()?;
    let choice: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
    let native = format!("native, {} (BITNET_ISA={} chooses)", Isa::select()?, choice.join("|"));
    let of_kind = |kind: DeviceKind| {
        let native = &native;
        kind.found().into_iter().enumerate().map(move |(index, device)| DeviceInfo {
            kind,
            name: if index == 0 { kind.name().to_string() } else { format!("{}:{index}", kind.name()) },
            kernels: if kind.is_native() { native.clone() } else { cube_kernels(&device) },
            natively: natively(&device),
        })
    };
    Ok(DeviceKind::compiled().flat_map(of_kind).collect())
}

/// The device of this name: that of a backend, and `:n` for another than the first of its devices; or `remote:host:port`,
/// and `/n` for another than the first that is lent there.
///
/// # Errors
/// When no backend has this name, when this program was built without it, when the machine has no such device, when nobody
/// lends it, or when `BITNET_ISA` names an instruction set that this processor does not have, or another variable says what
/// cannot be understood.
pub fn device(name: &str) -> Result<Device, DeviceError> {
    check_environment()?;
    if let Some(address) = name.strip_prefix("remote:") {
        return remote(address);
    }
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => (kind, index.parse().map_err(|_| DeviceError::Unknown(name.to_string()))?),
        None => (name, 0),
    };
    let kind = DeviceKind::ALL.into_iter().find(|known| known.name() == kind);
    let kind = kind.ok_or_else(|| DeviceError::Unknown(name.to_string()))?;
    if !kind.is_compiled_in() {
        return Err(DeviceError::NotCompiledIn(kind.name()));
    }
    let mut found = kind.found();
    if index >= found.len() {
        return Err(DeviceError::Absent { name: name.to_string(), kind: kind.name(), found: found.len() });
    }
    Ok(found.swap_remove(index))
}

#[cfg(feature = "remote")]
fn remote(address: &str) -> Result<Device, DeviceError> {
    let lost = |reason: burn::remote::ConnectError| DeviceError::Remote {
        address: address.to_string(),
        reason: reason.to_string(),
    };
    crate::remote::connect(address).map_err(lost)
}

#[cfg(not(feature = "remote"))]
fn remote(_: &str) -> Result<Device, DeviceError> {
    Err(DeviceError::NotCompiledIn(DeviceKind::Remote.name()))
}

/// Whether the native CPU kernels run on this device.
fn is_native(device: &Device) -> bool {
    DeviceKind::compiled().filter(|kind| kind.is_native()).any(|kind| kind.found().contains(device))
}

/// Whether a device is the processor that this program runs on, so that what is measured there holds for it.
pub fn is_processor(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    if let Some(client) = client(device) {
        return crate::cube::Target::of(&client).is_cpu();
    }
    is_native(device)
}

/// The order of packed words that the kernels of a device stream best.
pub fn weight_order(device: &Device) -> WeightOrder {
    if is_native(device) { WeightOrder::Tiles } else { WeightOrder::Rows }
}

/// The order with five trits in a byte, on devices whose kernels read it.
pub fn dense_weight_order(device: &Device) -> Option<WeightOrder> {
    is_native(device).then_some(WeightOrder::DenseTiles)
}

/// Whether a device multiplies numbers of this precision itself, so that it gains by them.
pub fn has_precision(device: &Device, precision: Precision) -> bool {
    match precision {
        Precision::F32 => true,
        Precision::Bf16 if is_native(device) => Isa::select().is_ok_and(|isa| precision.is_available(isa)),
        #[cfg(feature = "cube")]
        Precision::Bf16 => client(device).is_some() && device.supports_dtype(burn::tensor::FloatDType::BF16),
        #[cfg(not(feature = "cube"))]
        Precision::Bf16 => false,
    }
}

#[cfg(feature = "cube")]
fn client(device: &Device) -> Option<cubecl::client::Client> {
    match device.as_dispatch() {
        burn::backend::DispatchDevice::Cube(device) => Some(device.client()),
        _ => None,
    }
}

/// What a device of CubeCL is called.
fn cube_kernels(device: &Device) -> String {
    #[cfg(feature = "cube")]
    if let Some(client) = client(device) {
        return crate::cube::Target::describe(&client);
    }
    format!("none: operations of Burn ({device:?})")
}

/// What a device of CubeCL does by itself.
fn natively(device: &Device) -> Vec<&'static str> {
    #[cfg(feature = "cube")]
    if let Some(client) = client(device) {
        return crate::cube::Target::of(&client).natively(&client);
    }
    let _ = device;
    Vec::new()
}

/// The most bytes of a device's memory that may be used.
const MEMORY: Variable<u64> = Variable::new("BITNET_DEVICE_MEMORY", "a number of bytes", |bytes| bytes.parse().ok());

/// Whether the environment says of devices what can be understood.
fn check_environment() -> Result<(), DeviceError> {
    Isa::select()?;
    MEMORY.get()?;
    crate::replay::REPLAY.get()?;
    #[cfg(feature = "cube")]
    crate::cube::Target::check_environment()?;
    Ok(())
}

/// Bytes that a device says it can hold, where it says so, or what `BITNET_DEVICE_MEMORY` says if that is less.
///
/// # Panics
/// When that is set to no number; [`device`] has refused it before.
pub fn memory(device: &Device) -> Option<u64> {
    let allowed = MEMORY.value();
    #[cfg(feature = "cube")]
    let found = client(device).and_then(|client| client.properties().memory.max_memory());
    #[cfg(not(feature = "cube"))]
    let found: Option<u64> = None;
    let _ = device;
    found.into_iter().chain(allowed).min()
}

/// Whether launches on a device can be recorded and replayed.
pub(crate) fn replays(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    if let Some(client) = client(device) {
        return crate::cube::Target::replays(&client);
    }
    let _ = device;
    false
}

/// How a device wants the rows of a float matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowStorage {
    /// As the file has them, in U8.
    Bytes,
    /// As U32 words, in one of the formats that its kernels read, with steps of at most `lanes` groups, and at most
    /// `max_bytes` in a tensor.
    Words {
        /// The widest vector of words that its kernels load.
        lanes: usize,
        /// The most bytes that a kernel can be given in one tensor.
        max_bytes: usize,
        /// The bits of codes that would fit in six: a GPU waits for memory, a processor for what takes them apart.
        small_codes: usize,
    },
}

/// How the kernels of a device read the embedding and the head.
pub fn row_storage(device: &Device) -> RowStorage {
    #[cfg(feature = "cube")]
    if let Some(client) = client(device) {
        let max_bytes = usize::try_from(client.properties().memory.max_page_size).unwrap_or(usize::MAX);
        let target = crate::cube::Target::of(&client);
        let small_codes = if target.is_cpu() { 8 } else { 6 };
        return RowStorage::Words { lanes: target.vector, max_bytes, small_codes };
    }
    let _ = device;
    RowStorage::Bytes
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
    /// The machine does not have it.
    #[error("there is no device {name}: this machine has {found} with a driver for {kind}")]
    Absent {
        /// What was asked for.
        name: String,
        /// The backend.
        kind: &'static str,
        /// Devices of this backend.
        found: usize,
    },
    /// Nobody lends it.
    #[error("there is no device at {address}: {reason}")]
    Remote {
        /// What was asked for.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The kernels cannot run as asked.
    #[error(transparent)]
    Isa(#[from] crate::IsaError),
    /// The environment says what cannot be understood.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
}

fn known() -> String {
    DeviceKind::compiled().map(DeviceKind::name).collect::<Vec<_>>().join(", ")
}
