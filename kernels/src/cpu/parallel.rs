//! Splitting one output over the threads of the current pool.

use super::pool;

/// Below this many multiply-adds a second thread costs more than it gives.
const MIN_WORK: usize = 1 << 15;

/// Calls `f(i)` for every `i` below `tasks`; `work` is the number of multiply-adds of the whole call.
pub(crate) fn tasks(tasks: usize, work: usize, f: impl Fn(usize) + Sync) {
    if work < MIN_WORK { (0..tasks).for_each(f) } else { pool::for_each(tasks, f) }
}

/// Calls `f(first, chunk)` for consecutive chunks of `chunk` elements of `out`; `first` is the chunk's index.
/// `work` is the number of multiply-adds of the whole call.
pub(crate) fn chunks<T: Send>(out: &mut [T], chunk: usize, work: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let count = out.len().div_ceil(chunk.max(1));
    let parts = Parts::new(out);
    tasks(count, work, |i| {
        let end = parts.len().min((i + 1) * chunk);
        // SAFETY: no two tasks have an element in common.
        f(i, unsafe { parts.slice(i * chunk, end) });
    });
}

/// A slice whose parts are written by several threads.
pub(crate) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: it is a mutable slice, whose elements may be sent; `slice` and `write` leave it to their callers that no two
// threads have an element at a time.
unsafe impl<T: Send> Sync for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: std::marker::PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The elements `first..end`.
    ///
    /// # Safety
    /// Nobody else has any of them as long as the slice lives.
    ///
    /// # Panics
    /// When they are not all there.
    #[expect(clippy::mut_from_ref, reason = "this is what the type is for")]
    pub(crate) unsafe fn slice(&self, first: usize, end: usize) -> &mut [T] {
        assert!(first <= end && end <= self.len, "a part of the slice");
        // SAFETY: the elements are there, and the caller says that they are its own.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), end - first) }
    }
}

impl<T> Parts<'_, T> {
    /// Sets one element.
    ///
    /// # Safety
    /// As [`Parts::slice`].
    ///
    /// # Panics
    /// As [`Parts::slice`].
    pub(crate) unsafe fn write(&self, at: usize, value: T) {
        // SAFETY: the caller has this element.
        unsafe { self.slice(at, at + 1)[0] = value };
    }
}

/// How many of `rows` one task takes so that each thread gets many tasks of at least `least` rows: the last one is waited for.
pub(crate) fn rows_per_task(rows: usize, least: usize) -> usize {
    rows.div_ceil(64 * pool::threads()).max(least)
}
