//! Memory that a thread keeps from call to call: fresh memory of some size costs the system more than what is done in it.

use std::cell::RefCell;

thread_local! {
    /// Those that are not in use; a call within a call takes another one.
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` floats of no particular value.
pub(crate) fn with_floats<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut scratch = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    let result = f(&mut scratch[..len]);
    SCRATCH.with_borrow_mut(|free| free.push(scratch));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_within_a_call_has_memory_of_its_own() {
        for _ in 0..2 {
            let total = with_floats(5, |outer| {
                outer.fill(1.0);
                with_floats(3, |inner| inner.fill(2.0));
                outer.iter().sum::<f32>()
            });
            assert_eq!(total, 5.0);
        }
    }
}
