//! Kernels written once in CubeCL, for every device that it compiles to: CUDA, ROCm, Metal, Vulkan, WebGPU and the CPU.
//!
//! The packed words stay in canonical order, row by row; a unit loads several neighbouring words of a row as one vector,
//! and the activations are laid out to meet them, see `quantize.rs`. On a GPU the units of a cube share rows; in CubeCL's
//! CPU runtime a unit is a thread, which takes rows by itself with wider vectors, see `target.rs`. Float sums have another
//! order than in the native CPU kernels, so floats agree to rounding; the integers within ternary layers agree exactly.
//!
//! Kernels use 32-bit types alone, which is what WebGPU has, and at most eight buffers, what a launch itself needs among them; only the product that processors run
//! (`matvec::halves`) has lanes of 16 bits.

mod attention;
mod cache;
mod dense;
mod gate;
mod launch;
mod launch_attention;
mod launch_rows;
mod launch_top;
mod launch_training;
mod matvec;
mod narrow;
mod norm;
mod quantize;
mod rope;
mod rows;
mod target;
mod top;
mod training;

pub(crate) use launch::{Quantized, gated, quantize, quantized_linear, rest, rms_norm};
pub(crate) use launch_attention::{attend, rope};
pub(crate) use launch_rows::{decode_rows, rows_linear};
pub(crate) use launch_top::{MOST, top_logits};
pub(crate) use launch_training::{absmax, adamw, mean_magnitudes, pack, round_to, unpack, values_of_codes};
pub(crate) use target::Target;
