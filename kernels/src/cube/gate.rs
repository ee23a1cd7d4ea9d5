//! The gate of a gated MLP.

use cubecl::prelude::*;

use crate::cpu::gate::Gate;

/// What a gate lets through.
#[cube]
pub(super) fn activated<N: Size>(gate: Vector<f32, N>, #[comptime] kind: Gate) -> Vector<f32, N> {
    if comptime!(kind == Gate::Relu2) {
        let positive = max(gate, Vector::new(0f32));
        positive * positive
    } else {
        gate / (Vector::new(1f32) + (-gate).exp())
    }
}

/// `act(gate) * up`, elementwise.
#[cube(launch)]
pub(super) fn gated<N: Size>(
    gate: &[Vector<f32, N>],
    up: &[Vector<f32, N>],
    out: &mut [Vector<f32, N>],
    #[comptime] kind: Gate,
) {
    for i in range_stepped(ABSOLUTE_POS, out.len(), CUBE_COUNT * CUBE_DIM as usize) {
        out[i] = activated(gate[i], kind) * up[i];
    }
}
