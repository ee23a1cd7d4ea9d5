//! The trainer: its gradients and optimizers against PyTorch, and whole runs in this process.
#![cfg(feature = "burn")]

mod devices;
mod golden;
mod input;
mod optimizer;
mod resume;
mod round_trip;
mod support;
mod sweep;
mod tune;
mod variants;
