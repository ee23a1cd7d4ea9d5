//! Benchmarks and the model generators that they need.
