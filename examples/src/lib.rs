//! Runnable examples: `cargo run --release -p bitnet-examples --example NAME`.
