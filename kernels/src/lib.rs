//! Ternary operations on every Burn backend.
