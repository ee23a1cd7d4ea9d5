//! Benchmarks and the model generators that they need.

pub mod generate;
