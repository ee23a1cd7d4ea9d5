//! Slice kernels of the CPU backends.
//!
//! Every function takes the [`isa::Isa`] to run on and splits its work over the threads of the current [`pool`].
//! Results do not depend on either: integers are exact, and floats are added in one fixed order (see `lanes.rs`), so a
//! model gives the same text on one machine, whatever the instruction set and the number of threads.
//!
//! # Instruction sets
//!
//! The best one that the processor has is chosen when the first kernel runs; the environment variable `BITNET_ISA` takes
//! another one. What each has of its own ("plain" is portable Rust, of which the compiler makes the vectors it may):
//!
//! | `BITNET_ISA` | one token, 2 bits | one token, 1.6 bits | many tokens: rows × tokens in registers |
//! |---|---|---|---|
//! | `scalar` | plain | plain | plain |
//! | `avx2` | `vpmaddubsw`, sums of 16 bits | bytes compared with 1/3 and 2/3 | 16 × 6, codes taken apart once for all tokens |
//! | `avxvnni`, `vnni256` | `vpdpbusd`, codes not shifted | `vpdpbusd` of bytes and of what is left of them | 16 × 6 |
//! | `avx512vnni` | `vpdpbusd` | as `avxvnni` | 32 × 12 |
//! | `neon` | `smlal`, sums of 16 bits | bytes compared | 8 × 4 |
//! | `dotprod` | `sdot` by element, one shift a vector | `sdot` of bytes and of what is left of them | 16 × 4 |
//! | `i8mm` | as `dotprod` | as `dotprod` | `smmla`, 8 × 8 |
//! | `simd128` | `i32x4.dot_i16x8` | bytes times three | 16 × 2 |
//!
//! | `BITNET_ISA` | heads in tiles of 16 rows | f16 rows | attention, products of floats | where its tests ran |
//! |---|---|---|---|---|
//! | `scalar` | plain | plain | plain | AMD Zen 4, and under every row below |
//! | `avx2` | `vpmaddubsw`, `vpmaddwd` | F16C | FMA, vectors of 8 | AMD Zen 4 |
//! | `avxvnni` | `vpdpbusd`, `vpmulld` | F16C | FMA, vectors of 8 | nowhere: no machine had it |
//! | `vnni256` | the same | F16C | FMA, vectors of 8 | AMD Zen 4 |
//! | `avx512vnni` | `vpdpbusd`, `vpmulld` | vectors of 16 | FMA, vectors of 16 | AMD Zen 4 |
//! | `neon` | `smull`, `saddlp` | `fcvtl` | plain (`fmla`) | QEMU: a Cortex-A72 and its largest processor |
//! | `dotprod`, `i8mm` | `sdot` | `fcvtl` | plain (`fmla`) | QEMU's largest processor |
//! | `simd128` | plain | plain | plain | node 20, once: the integer products over ragged shapes, not every test |
//!
//! `vnni256` is for tests: it is the text of `avxvnni` (`vnni256.rs`), compiled for AVX-512's encoding of the same
//! instruction, `vpdpbusd`, and nothing else differs. QEMU shows that results are right, and says nothing about
//! speed. WebAssembly has one choice, made when it is compiled (`-C target-feature=+simd128`), and no threads.
//!
//! Tables of sums that are looked up by groups of trits (`pshufb`, as in T-MAC, arXiv 2407.00088, and bitnet.cpp's TL1) were
//! tried on AVX2 and lost to multiplying: `benches/results/cpu-2026-11-25-isa.md`.

mod activations;
pub mod adamw;
pub mod attention;
mod base3;
pub mod best_logits;
pub mod blend;
pub mod code_rows;
pub mod cross_entropy;
pub mod dense;
mod dots;
pub mod exp;
pub mod float_activations;
pub mod gate;
mod gemm;
mod halves;
pub mod isa;
pub mod kv_cache;
mod lanes;
pub mod linear_backward;
pub mod norm;
mod parallel;
pub mod pool;
pub mod precision;
#[cfg(not(target_family = "wasm"))]
pub mod probe;
pub mod quantize;
pub mod rope;
pub mod round;
pub mod row_tiles;
mod scratch;
pub mod ternary;
pub mod tiles;
pub mod top;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod simd128;
#[cfg(target_arch = "x86_64")]
mod vnni256;
