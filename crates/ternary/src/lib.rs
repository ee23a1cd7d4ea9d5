//! Ternary matrices: codes, scales, quantizers, on-disk packings and the exact integer matmul.
