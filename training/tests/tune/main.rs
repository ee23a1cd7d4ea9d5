//! Fine-tuning: the loss of conversations and of preferences, and models that are trained further.
#![cfg(feature = "burn")]

mod adapter;
mod conversations;
mod distillation;
mod further;
mod preference;
// Whole runs are set up as in the tests of the trainer, which use more of it.
#[allow(dead_code)]
#[path = "../trainer/support.rs"]
mod support;
