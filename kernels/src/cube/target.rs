//! What a kernel's launch depends on in a device.

use std::sync::OnceLock;

use cubecl::features::{MmaConfig, Plane, TypeUsage};
use cubecl::ir::{DeviceProperties, ElemType, FloatKind, IntKind};
use cubecl::prelude::*;

use super::plan::{BLOCK, LANES, UNITS};
use crate::environment::{EnvironmentError, Variable, flag};

/// How activations meet the codes of ternary weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Products {
    /// As floats, one by one.
    Floats,
    /// As integers of 16 bits in vectors: processors.
    Halves,
    /// Four bytes in one instruction.
    Bytes,
    /// Tile by tile in shared memory, on matrix units where there are any.
    Tiles,
}

impl Products {
    /// Activations in a word.
    pub fn per_word(self) -> usize {
        match self {
            Products::Floats => 1,
            Products::Halves => 2,
            Products::Bytes | Products::Tiles => 4,
        }
    }
}

/// What two tiles are multiplied as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// Int8, with sums in i32.
    Int8,
    /// IEEE half precision, with sums in f32.
    F16,
    /// The upper half of f32, with sums in f32.
    Bf16,
    /// F32.
    F32,
}

/// Matrix units that multiply int8, or 16-bit floats with sums in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatrixUnits {
    /// What they take.
    pub operand: Operand,
    /// Tokens, rows and columns of a fragment.
    pub fragment: [usize; 3],
    /// Units that work on one.
    pub plane: usize,
}

impl MatrixUnits {
    /// The best that a device reports.
    fn of(properties: &DeviceProperties) -> Option<Self> {
        let hardware = &properties.hardware;
        // A fragment is spread over a plane whose size has to be known.
        let plane = hardware.plane_size_max as usize;
        if plane < 2 || hardware.plane_size_min != hardware.plane_size_max {
            return None;
        }
        let float = |kind| (ElemType::Float(kind), ElemType::Float(FloatKind::F32));
        let wanted = [
            (Operand::Int8, (ElemType::Int(IntKind::I8), ElemType::Int(IntKind::I32))),
            (Operand::F16, float(FloatKind::F16)),
            (Operand::Bf16, float(FloatKind::BF16)),
        ];
        let fragments = [[16, 16, 16], [8, 8, 8]];
        let has = |(of, sum): (ElemType, ElemType), [m, n, k]: [u32; 3]| {
            properties.features.matmul.cmma.contains(&MmaConfig { a_type: of, b_type: of, cd_type: sum, m, n, k })
        };
        let all = wanted.into_iter().flat_map(|(operand, kinds)| fragments.map(|fragment| (operand, kinds, fragment)));
        let (operand, _, fragment) = all.into_iter().find(|(_, kinds, fragment)| has(*kinds, *fragment))?;
        Some(Self { operand, fragment: fragment.map(|size| size as usize), plane })
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
    /// The fastest for a few tokens whose activations have 8 bits and meet weights with one scale a row or tensor.
    products: Products,
    /// Whether four bytes are multiplied in one instruction.
    dp4a: bool,
    /// Matrix units that products of many tokens can use.
    pub matrix: Option<MatrixUnits>,
    /// Units whose values can be exchanged without shared memory.
    pub plane: usize,
    /// Units that share a row of a matrix in products of a few tokens, or a block of as many rows as `block` says.
    pub lanes: usize,
    /// Rows that meet an activation once it is loaded.
    pub block: usize,
    /// Whether Burn's tuner looks for faster ways than the planned one.
    pub tuned: bool,
    /// Buffers that a kernel can have.
    pub max_bindings: usize,
    /// Bytes that the beginning of a buffer has to be a multiple of.
    pub alignment: usize,
    max_cubes: u32,
}

/// Units that share a row on a GPU.
const SHARING: u32 = 128;

/// Units of a cube on a GPU whose units work by themselves.
const ALONE: u32 = 64;

/// Tokens up to which a mat-vec kernel is planned where there are matrix units.
const FEW: usize = 8;

/// The kernel of products, so that all can be tested anywhere.
const PRODUCTS: Variable<Products> =
    Variable::new("BITNET_PRODUCTS", "floats, halves, bytes or tiles", |name| match name {
        "floats" => Some(Products::Floats),
        "halves" => Some(Products::Halves),
        "bytes" => Some(Products::Bytes),
        "tiles" => Some(Products::Tiles),
        _ => None,
    });

/// Whether Burn's tuner is used everywhere or nowhere, so that it can be tested anywhere.
const TUNED: Variable<bool> = Variable::new("BITNET_TUNED", "0 or 1", flag);

/// Units that share rows, and how many rows, in products of a few tokens, such as `8x1`: so that those of every device can be
/// tested anywhere.
const ROWS: Variable<(usize, usize)> =
    Variable::new("BITNET_ROWS", "units and rows, powers of two up to 128x4, such as 8x1", |text| {
        let (lanes, block) = text.split_once('x')?;
        let of = |text: &str, most| text.parse().ok().filter(|n: &usize| n.is_power_of_two() && *n <= most);
        Some((of(lanes, UNITS)?, of(block, BLOCK)?))
    });

/// What those are set to when the first kernel is launched.
struct Overrides {
    products: Option<Products>,
    tuned: Option<bool>,
    rows: Option<(usize, usize)>,
}

fn overrides() -> &'static Overrides {
    static OVERRIDES: OnceLock<Overrides> = OnceLock::new();
    OVERRIDES.get_or_init(|| Overrides { products: PRODUCTS.value(), tuned: TUNED.value(), rows: ROWS.value() })
}

impl Target {
    /// Whether the variables that override the plan of products can be understood.
    pub fn check_environment() -> Result<(), EnvironmentError> {
        PRODUCTS.get()?;
        TUNED.get()?;
        ROWS.get()?;
        Ok(())
    }

    /// Of the device behind `client`.
    pub fn of(client: &Client) -> Self {
        let properties = client.properties();
        let hardware = &properties.hardware;
        let cores = hardware.num_cpu_cores.filter(|_| hardware.plane_size_max == 1);
        let name = client.name();
        // What WGSL runs on may be anything, of which only software was seen: there the plainest ways are taken.
        let portable = name.contains("wgsl");
        // CubeCL does not say where four bytes are multiplied at once.
        let dp4a = name.contains("cuda") || name.contains("spirv");
        let products = match cores {
            Some(_) => Products::Halves,
            // Through WGSL it is done by shifts, and still faster than floats: a quarter of the activations to load.
            None if dp4a || portable => Products::Bytes,
            None => Products::Floats,
        };
        // Where units are turns of a loop, nothing is gained by sharing a row, and a load is dear.
        let software = properties.identity.physical.is_none();
        let (lanes, block) = overrides().rows.unwrap_or(if software { (1, BLOCK) } else { (LANES, 1) });
        let planes = properties.features.plane.contains(Plane::Ops)
            && hardware.plane_size_min == hardware.plane_size_max
            && !portable;
        Self {
            cores,
            vector: if cores.is_some() { 16 } else { 4 },
            products,
            dp4a,
            matrix: MatrixUnits::of(properties),
            plane: if planes { hardware.plane_size_min as usize } else { 1 },
            lanes,
            block,
            tuned: overrides().tuned.unwrap_or(!software && !portable),
            max_bindings: hardware.max_bindings as usize,
            alignment: properties.memory.alignment as usize,
            max_cubes: hardware.max_cube_count.0.min(65_535),
        }
    }

    /// How a product of activations of 8 bits is made for so many tokens.
    pub fn products(&self, tokens: usize) -> Products {
        match overrides().products {
            Some(products) => products,
            None if tokens > FEW && self.matrix.is_some() => Products::Tiles,
            None => self.products,
        }
    }

    /// Whether one kernel was asked for by name.
    pub fn is_forced() -> bool {
        overrides().products.is_some()
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
            (self.dp4a, "dp4a"),
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

    /// Threads of a processor.
    pub fn units(&self) -> usize {
        self.cores.map_or(1, |cores| cores as usize)
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

    /// As many cubes as wanted, as far as the device can have them: kernels go on with the next where there are fewer.
    pub fn cubes(&self, wanted: usize) -> u32 {
        u32::try_from(wanted.max(1)).unwrap_or(u32::MAX).min(self.max_cubes)
    }

    /// The widest vector that divides `len`.
    pub fn vector_of(&self, len: usize) -> usize {
        (0..=self.vector.ilog2()).rev().map(|bits| 1 << bits).find(|width| len.is_multiple_of(*width)).unwrap_or(1)
    }
}
