//! Training of 1.58-bit (ternary) language models, from text to a file that the engine runs.
//!
//! [`train`] is the whole of it: data and a [`recipe::Recipe`] in, a folder with a packed model, its metrics and a report
//! out. The same recipe, data and seed give the same model, bit for bit, however often the run was killed and resumed.
//!
//! # Many devices
//!
//! With [`RunOptions::more_devices`] (`bitnet train --devices A,B`), every step's rows are shared among devices. The first has
//! the weights and the optimizer; the others get a copy of the weights for each step and give back their gradients, which
//! are summed in the order of the devices. The union of the shares is the batch of one device, and the loss is a mean over all
//! targets, so the model is the one that a single device trains, but for the order of float sums; a run that is resumed
//! goes on bit for bit only on the devices that it had. A step costs a copy of the weights and of the gradients for each
//! device, which has to be little beside the work of its share.
//!
//! The devices need not be alike: Burn moves a tensor between any two. Among CUDA devices of one process CubeCL does it by
//! NCCL; we had no two to try it on.
//!
//! What Burn 0.22 has besides, and why it is not used:
//!
//! - Distributed data parallelism (`ExecutionStrategy::ddp`), in which each device has an optimizer and gradients meet in an
//!   all-reduce. CubeCL implements that for CUDA alone (`ServerCommunication`, whose default is an error), Flex not at all, and
//!   burn-remote refuses it between two servers ("cross-peer all_reduce is not supported yet"). It also belongs to a learner
//!   that checkpoints by epochs.
//! - Optimizers sharded over the devices (`MultiDeviceOptim::OptimSharded`), which would save memory on the first one: it
//!   too belongs to that learner, which clips each gradient by itself and sums them in the order of arrival.
//! - Nothing splits one model over several devices.
//!
//! A device of another process (`remote:host:port`, feature `remote`, lent by `bitnet lend`) is any of Burn's servers: the
//! operations of this crate are sent as those of Burn that they are made of. So its own kernels are not used there, and each
//! operation is a message; it serves to reach a machine's device, not to save time on one machine.
//!
//! # Precision
//!
//! Weights, optimizer, activations and sums are F32, and the product of a ternary layer's forward pass is one of integers. With
//! `batch.precision = "bf16"` (`bitnet train --precision bf16`) the operands of the linears' other products are rounded to
//! bfloat16: those of the two products of a backward pass, and of the forward product of a layer that computes with floats.
//! Int8 codes and trits are such numbers as they are, so of a ternary layer only the gradient that comes in is rounded.
//!
//! A CPU needs AVX-512 BF16 for it (AMD Zen 4), where a run is as reproducible as in F32. CubeCL's devices say themselves
//! whether they have such numbers; there Burn rounds the product as well. A device without them is refused before the first
//! step. `model.embedding = "bf16"` is something else: what the embedding is stored in.

pub mod data;
pub mod metrics;
pub mod recipe;
pub mod report;
pub mod schedule;

#[cfg(feature = "burn")]
pub mod checkpoint;
#[cfg(feature = "burn")]
mod error;
#[cfg(feature = "burn")]
mod export;
#[cfg(feature = "burn")]
mod finetune;
#[cfg(feature = "burn")]
mod gradients;
#[cfg(feature = "burn")]
mod inspect;
#[cfg(feature = "burn")]
pub mod objective;
#[cfg(feature = "burn")]
pub mod optimizer;
#[cfg(feature = "burn")]
pub mod parameters;
#[cfg(feature = "burn")]
mod run;
#[cfg(feature = "burn")]
pub mod step;
#[cfg(feature = "burn")]
pub mod tokenizer;

pub use bitnet_ternary::Packing;
#[cfg(feature = "burn")]
pub use error::TrainError;
#[cfg(feature = "burn")]
pub use export::{ExportFormat, export};
#[cfg(feature = "burn")]
pub use gradients::GradientSum;
#[cfg(feature = "burn")]
pub use inspect::Inspector;
#[cfg(feature = "burn")]
pub use run::{Event, Facts, Observer, RunFolder, RunOptions, Trained, Tried, sweep_learning_rate, train};
