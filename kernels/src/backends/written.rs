//! Outputs that are not cleared before they are written.

/// A line of `len` numbers, each of which `f` writes.
///
/// Clearing an output first costs as much as half of the simple operations that fill it.
pub(super) fn written(len: usize, f: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let mut values: Vec<f32> = Vec::with_capacity(len);
    // SAFETY: there is room for `len` floats, of which every bit pattern is one. `f` is a slice kernel, which writes each of
    // them before it reads any; where debug assertions are on, one that it forgot is NaN.
    unsafe {
        let out = std::slice::from_raw_parts_mut(values.as_mut_ptr(), len);
        if cfg!(debug_assertions) {
            out.fill(f32::NAN);
        }
        f(out);
        values.set_len(len);
    }
    values
}
