//! Norms, gates and what all launches share.

use burn::backend::{DType, TensorMetadata};
use burn::tensor::Shape;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use super::target::Target;
use super::{gate, norm};
use crate::cpu::gate::Gate;

/// A new tensor on the device of `like`.
pub(super) fn empty<const D: usize>(like: &CubeTensor, shape: [usize; D], dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::from(shape), dtype)
}

/// A tensor that may be changed in place: `x` where nothing else holds it.
pub(super) fn own(x: CubeTensor) -> CubeTensor {
    if x.can_mut() && x.is_contiguous() { x } else { into_contiguous(x).copy() }
}

/// Sleeps until what makes `y` is done, on a processor: a caller that runs ahead of the queue spins when it is full, on a
/// core that the kernels then do without. Errors come with the values.
pub(crate) fn rest(y: &CubeTensor) {
    if Target::of(&y.client).is_cpu() {
        let _ = cubecl::future::block_on(y.client.sync());
    }
}

/// RMSNorm of each row of `x`.
pub(crate) fn rms_norm(x: CubeTensor, weight: CubeTensor, eps: f64) -> CubeTensor {
    let (x, weight) = (into_contiguous(x), into_contiguous(weight));
    let (client, target) = (x.client.clone(), Target::of(&x.client));
    let [rows, cols] = x.shape().dims();
    let out = empty(&x, [rows, cols], DType::F32);
    let (count, dim) = target.rows(rows);
    let (x, weight, y) = (x.into_buffer_arg(), weight.into_buffer_arg(), out.clone().into_buffer_arg());
    norm::rms_norm::launch(
        &client,
        count,
        dim,
        target.vector_of(cols),
        x,
        weight,
        y,
        rows,
        eps as f32,
        target.units_of_a_row(),
    );
    out
}

/// `act(gate) * up`.
pub(crate) fn gated(gate: CubeTensor, up: CubeTensor, kind: Gate) -> CubeTensor {
    let (gate, up) = (into_contiguous(gate), into_contiguous(up));
    let (client, target, shape) = (gate.client.clone(), Target::of(&gate.client), gate.shape());
    let out = empty_device_contiguous_dtype(client.clone(), gate.device.clone(), shape.clone(), DType::F32);
    let vector = target.vector_of(shape.num_elements());
    let (count, dim) = target.tasks(shape.num_elements() / vector);
    let (gate, up, y) = (gate.into_buffer_arg(), up.into_buffer_arg(), out.clone().into_buffer_arg());
    gate::gated::launch(&client, count, dim, vector, gate, up, y, kind);
    out
}
