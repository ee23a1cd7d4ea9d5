//! Training of 1.58-bit (ternary) language models, from text to a file that the engine runs.

pub mod data;
pub mod metrics;
pub mod report;
pub mod schedule;
