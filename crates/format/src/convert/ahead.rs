//! Work on several threads whose results are taken in order.

use std::num::NonZero;
use std::sync::mpsc;
use std::thread;

/// Each thread holds a tensor's floats, so memory grows with their number.
const MOST_THREADS: usize = 4;
/// Results that a thread may have waiting.
const WAITING: usize = 2;

/// Calls `work` for each of `0..count` on several threads, a few ahead of `take`, which is given the next result each time it
/// asks: for 0, for 1, and so on. What `take` returns is returned; work that it has not asked for by then is dropped.
///
/// # Panics
///
/// When `work` does, or `take` asks for more than `count` results.
pub(super) fn in_order<T: Send, R>(
    count: usize,
    work: impl Fn(usize) -> T + Sync,
    take: impl FnOnce(&mut dyn FnMut() -> T) -> R,
) -> R {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).clamp(1, MOST_THREADS);
    thread::scope(|scope| {
        let mut receivers = Vec::with_capacity(threads);
        for first in 0..threads {
            let (sender, receiver) = mpsc::sync_channel(WAITING);
            receivers.push(receiver);
            let work = &work;
            // Nobody listens any more once `take` has returned.
            scope.spawn(move || (first..count).step_by(threads).try_for_each(|index| sender.send(work(index))));
        }
        let mut next = (0..threads).cycle();
        take(&mut || {
            let receiver = &receivers[next.next().expect("a cycle has no end")];
            receiver.recv().expect("a thread works on what is asked for next")
        })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn results_come_in_order_and_work_is_not_far_ahead() {
        let (begun, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |index: usize| {
            let ahead = begun.fetch_add(1, Ordering::SeqCst).saturating_sub(taken.load(Ordering::SeqCst));
            assert!(ahead <= MOST_THREADS * (WAITING + 2), "{ahead} ahead");
            thread::sleep(Duration::from_micros(if index.is_multiple_of(3) { 300 } else { 10 }));
            index * index
        };
        let all: Vec<usize> = in_order(100, work, |next| {
            let results = (0..100).map(|_| {
                taken.fetch_add(1, Ordering::SeqCst);
                next()
            });
            results.collect()
        });
        assert_eq!(all, (0..100).map(|index| index * index).collect::<Vec<_>>());
    }

    #[test]
    fn whoever_has_enough_may_go() {
        assert_eq!(in_order(1_000, |index| index, |next| (next(), next())), (0, 1));
        assert_eq!(in_order(0, |index| index, |_| "nothing"), "nothing");
    }
}
