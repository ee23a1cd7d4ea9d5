//! What a kernel's launch depends on in a device.

use std::sync::OnceLock;

use cubecl::features::TypeUsage;
use cubecl::ir::{ElemType, FloatKind, IntKind};
use cubecl::prelude::*;

/// How activations meet the codes of ternary weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Products {
    /// As floats, one by one.
    Floats,
    /// As integers of 16 bits in vectors: processors.
    Halves,
    /// Four bytes in one instruction.
    Bytes,
}

impl Products {
    /// Activations in a word.
    pub fn per_word(self) -> usize {
        match self {
            Products::Floats => 1,
            Products::Halves => 2,
            Products::Bytes => 4,
        }
    }
}

/// How work is cut for a device.
///
/// On a GPU the units of a cube work side by side on one row of a matrix, and there are many cubes. CubeCL's CPU runtime
/// has one thread a unit and runs the cubes one after the other, so there a unit takes whole rows by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Threads, where the device is CubeCL's CPU runtime.
    cores: Option<u32>,
    /// The widest vector of 32-bit values that a unit should load.
    pub vector: usize,
    /// The fastest that there is for activations of 8 bits and weights with one scale a row or tensor.
    pub products: Products,
    max_cubes: u32,
}

/// Units that share a row on a GPU.
const SHARING: u32 = 128;

/// Units of a cube on a GPU whose units work by themselves.
const ALONE: u32 = 64;

/// What `BITNET_DP4A` says: 1 takes the kernels that multiply four bytes at once on every device, 0 on none, so that both
/// can be tested anywhere.
static FORCED_DP4A: OnceLock<Option<bool>> = OnceLock::new();

fn forced_dp4a() -> Option<bool> {
    match std::env::var("BITNET_DP4A").ok()?.as_str() {
        "1" => Some(true),
        "0" => Some(false),
        _ => None,
    }
}

impl Target {
    /// Of the device behind `client`.
    pub fn of(client: &Client) -> Self {
        let hardware = &client.properties().hardware;
        let cores = hardware.num_cpu_cores.filter(|_| hardware.plane_size_max == 1);
        let name = client.name();
        let dp4a = FORCED_DP4A.get_or_init(forced_dp4a).unwrap_or(name.contains("cuda") || name.contains("spirv"));
        let products = match (dp4a, cores) {
            (true, _) => Products::Bytes,
            (false, Some(_)) => Products::Halves,
            (false, None) => Products::Floats,
        };
        Self {
            cores,
            vector: if cores.is_some() { 16 } else { 4 },
            products,
            max_cubes: hardware.max_cube_count.0.min(65_535),
        }
    }

    /// Whether launches can be recorded and replayed.
    pub fn replays(client: &Client) -> bool {
        ["cuda", "hip", "wgpu"].iter().any(|runtime| client.name().contains(runtime))
    }

    /// The device's own name.
    pub fn describe(client: &Client) -> String {
        format!("CubeCL {}, {}", client.name(), client.properties().identity.name)
    }

    /// What the device does by itself, of what kernels could use.
    pub fn natively(&self, client: &Client) -> Vec<&'static str> {
        let features = &client.properties().features;
        let matmul = &features.matmul;
        let of = |elem: ElemType| matmul.cmma.iter().chain(&matmul.mma).any(|config| config.a_type == elem);
        let (i8, f16) = (ElemType::Int(IntKind::I8), ElemType::Float(FloatKind::F16));
        let all = [
            (self.products == Products::Bytes, "dp4a"),
            (of(i8), "int8 matrix units"),
            (of(f16) || of(ElemType::Float(FloatKind::BF16)), "16-bit matrix units"),
            (features.type_usage(f16).contains(TypeUsage::Arithmetic), "f16"),
            (Self::replays(client), "replay"),
        ];
        all.into_iter().filter_map(|(has, what)| has.then_some(what)).collect()
    }

    /// Whether a unit is a thread of a CPU.
    pub fn is_cpu(&self) -> bool {
        self.cores.is_some()
    }

    /// Units that work on one row.
    pub fn units_of_a_row(&self) -> usize {
        if self.is_cpu() { 1 } else { SHARING as usize }
    }

    /// For kernels whose rows are worked on by [`Target::units_of_a_row`] units each.
    pub fn rows(&self, rows: usize) -> (CubeCount, CubeDim) {
        match self.cores {
            Some(cores) => (CubeCount::new_single(), CubeDim::new_1d(cores)),
            None => (CubeCount::new_1d(self.cubes(rows)), CubeDim::new_1d(SHARING)),
        }
    }

    /// For kernels whose units work by themselves.
    pub fn tasks(&self, tasks: usize) -> (CubeCount, CubeDim) {
        match self.cores {
            Some(cores) => (CubeCount::new_single(), CubeDim::new_1d(cores)),
            None => (CubeCount::new_1d(self.cubes(tasks.div_ceil(ALONE as usize))), CubeDim::new_1d(ALONE)),
        }
    }

    fn cubes(&self, wanted: usize) -> u32 {
        u32::try_from(wanted.max(1)).unwrap_or(u32::MAX).min(self.max_cubes)
    }

    /// The widest vector that divides `len`.
    pub fn vector_of(&self, len: usize) -> usize {
        (0..=self.vector.ilog2()).rev().map(|bits| 1 << bits).find(|width| len.is_multiple_of(*width)).unwrap_or(1)
    }
}
