//! The kernels themselves, which name nothing of Burn, and launches of each.
#![expect(dead_code, reason = "what only processors and tensors of Burn need")]

#[path = "../../../src/cube/attention.rs"]
mod attention;
#[path = "../../../src/cube/cache.rs"]
mod cache;
#[path = "../../../src/cube/dense.rs"]
mod dense;
#[path = "../../../src/cube/gate.rs"]
mod gate;
#[path = "../../../src/cube/groups.rs"]
mod groups;
#[path = "../../../src/cube/matmul.rs"]
mod matmul;
#[path = "../../../src/cube/matvec.rs"]
mod matvec;
#[path = "../../../src/cube/narrow.rs"]
mod narrow;
#[path = "../../../src/cube/norm.rs"]
mod norm;
#[path = "../../../src/cube/plan.rs"]
mod plan;
#[path = "../../../src/cube/quantize.rs"]
mod quantize;
#[path = "../../../src/cube/rope.rs"]
mod rope;
#[path = "../../../src/cube/rows.rs"]
mod rows;
#[path = "../../../src/cube/target.rs"]
mod target;
#[path = "../../../src/cube/top.rs"]
mod top;
#[path = "../../../src/cube/training.rs"]
mod training;

pub mod launch;
