//! What Gemma 3 means where a file does not say which layers have sliding windows.

/// Every so many-th layer sees everything.
pub(super) const SLIDING_PATTERN: usize = 6;

/// Base of the rotary angles in layers with windows.
pub(super) const SLIDING_ROPE_THETA: f64 = 10_000.0;

/// For each layer whether it has a window: all but every `pattern`-th, or all when it is 0.
pub(super) fn all_but_every(pattern: usize, layers: usize) -> Vec<bool> {
    (1..=layers).map(|layer| !layer.is_multiple_of(pattern)).collect()
}
