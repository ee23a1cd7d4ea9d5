//! Kernels written once in CubeCL, for every device that it compiles to: CUDA, ROCm, Metal, Vulkan, WebGPU and the CPU.
//!
//! The packed words stay in canonical order, row by row; a unit loads several neighbouring words of a row as one vector,
//! and the activations are laid out to meet them, see `quantize.rs`. On a GPU the units of a cube share rows; in CubeCL's
//! CPU runtime a unit is a thread, which takes rows by itself with wider vectors, see `target.rs`. Float sums have another
//! order than in the native CPU kernels, so floats agree to rounding; the integers within ternary layers agree exactly.
//!
//! Kernels use 32-bit types alone, which is what WebGPU has, and at most eight buffers, what a launch itself needs among them,
//! but where a device has more; only the product that processors run (`halves.rs`) has lanes of 16 bits, and that on matrix
//! units what those take.

mod attention;
mod cache;
mod dense;
mod gate;
mod groups;
mod halves;
mod launch;
mod launch_attention;
mod launch_products;
mod launch_rows;
mod launch_top;
mod launch_training;
mod matmul;
mod matvec;
mod narrow;
mod norm;
mod plan;
mod quantize;
mod rope;
mod rows;
mod target;
mod top;
mod training;
mod tune;

pub(crate) use launch::{gated, rest, rms_norm};
pub(crate) use launch_attention::{attend, rope};
pub(crate) use launch_products::{quantize, quantized_codes, quantized_gate, quantized_linear_onto, quantized_linears};
pub(crate) use launch_rows::{decode_rows, rows_linear};
pub(crate) use launch_top::{MOST, top_logits};
pub(crate) use launch_training::{absmax, adamw, mean_magnitudes, pack, round_to, unpack, values_of_codes};
pub(crate) use target::Target;
