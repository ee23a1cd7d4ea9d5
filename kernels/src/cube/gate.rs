//! The gate of a gated MLP.

use cubecl::prelude::*;

use crate::cpu::gate::Gate;

/// `act(gate) * up`, elementwise.
#[cube(launch)]
pub(super) fn gated<N: Size>(
    gate: &[Vector<f32, N>],
    up: &[Vector<f32, N>],
    out: &mut [Vector<f32, N>],
    #[comptime] kind: Gate,
) {
    for i in range_stepped(ABSOLUTE_POS, out.len(), CUBE_COUNT * CUBE_DIM as usize) {
        let g = gate[i];
        let act = if comptime!(kind == Gate::Relu2) {
            let g = max(g, Vector::new(0f32));
            g * g
        } else {
            g / (Vector::new(1f32) + (-g).exp())
        };
        out[i] = act * up[i];
    }
}
