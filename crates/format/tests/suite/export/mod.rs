//! Whole models written and read again.

mod fake;
mod fixture;
mod gguf;
mod properties;
mod refusals;
mod replacing;
mod scales;
mod vocabulary;
