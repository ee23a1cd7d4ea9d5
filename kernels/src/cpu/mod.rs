//! Slice kernels of the CPU backends.
//!
//! Every function takes the [`isa::Isa`] to run on and splits its work over the threads of the current [`pool`].
//! Results do not depend on either: integers are exact, and floats are added in one fixed order (see `lanes.rs`), so a
//! model gives the same text on one machine, whatever the instruction set and the number of threads.

mod activations;
pub mod adamw;
pub mod attention;
mod base3;
pub mod best_logits;
pub mod code_rows;
pub mod cross_entropy;
pub mod dense;
pub mod exp;
pub mod gate;
mod gemm;
pub mod isa;
pub mod kv_cache;
mod lanes;
pub mod linear_backward;
pub mod norm;
mod parallel;
pub mod pool;
#[cfg(not(target_family = "wasm"))]
pub mod probe;
mod q6_k;
pub mod quantize;
pub mod rope;
pub mod round;
mod scratch;
pub mod ternary;
pub mod tiles;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
