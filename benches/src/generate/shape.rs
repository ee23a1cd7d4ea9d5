//! The sizes of a model.

/// Base of the rotary angles of every generated model, as 2B-4T's.
pub const ROPE_THETA: f64 = 500_000.0;

/// Added to the mean square in every norm of every generated model, as in 2B-4T's.
pub const RMS_NORM_EPS: f64 = 1e-5;

/// The sizes of a BitNet b1.58 decoder: squared ReLU, sub-norms, a head tied to the embedding. Its vocabulary is chosen
/// apart.
///
/// `hidden` and `ffn` are multiples of 256, which every packing can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// What the shape goes by.
    pub name: &'static str,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the MLP.
    pub ffn: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads.
    pub kv_heads: usize,
    /// Positions the model claims to be trained for.
    pub context: usize,
}

impl Shape {
    /// microsoft/bitnet-b1.58-2B-4T.
    pub const BITNET_2B4T: Self =
        Self { name: "2b4t", layers: 30, hidden: 2560, ffn: 6912, heads: 20, kv_heads: 5, context: 4096 };

    /// Small enough for a test to write and read in no time.
    pub const TINY: Self = Self { name: "tiny", layers: 2, hidden: 256, ffn: 512, heads: 4, kv_heads: 2, context: 256 };

    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Width of all keys, or all values, of a position.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim()
    }
}
