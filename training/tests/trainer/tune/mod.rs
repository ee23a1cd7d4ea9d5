//! Fine-tuning: the loss of conversations and of preferences, and models that are trained further.

mod adapter;
mod conversations;
mod distillation;
mod further;
mod preference;
