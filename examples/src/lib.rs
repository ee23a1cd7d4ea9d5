//! What the examples share: pictures of digits to learn from. The examples themselves run with
//!
//! ```sh
//! cargo run --release -p bitnet-examples --example NAME
//! ```

mod digits;
mod quiet;

pub use digits::{Digit, DigitBatch, DigitBatcher, PIXELS, digits};
pub use quiet::Quiet;
