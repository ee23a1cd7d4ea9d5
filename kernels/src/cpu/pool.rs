//! The threads of the slice kernels.
//!
//! A decode step is some hundred short parallel loops, a few microseconds of other work between them. So a worker that
//! has run out of work spins for a moment before it sleeps, and a loop that begins meanwhile costs no wake-up. A loop
//! never waits for a sleeper either: its caller works on until every task is taken, and who comes late is not waited for.
//!
//! Each thread begins with its own contiguous share of the tasks, so that it streams its own pages; when that is done it
//! takes tasks from the end of another's share.

use std::any::Any;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a thread that waits spins before it sleeps: longer than what lies between two loops of a decode step. Where
/// others want the cores too, whoever spins away its share of time is kept waiting by the system afterwards.
const SPIN: Duration = Duration::from_micros(200);

/// A set of threads, the caller's among them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<(Thread, Option<JoinHandle<()>>)>,
    /// Held by the loop that is running; another one that begins meanwhile runs on its caller's thread alone.
    running: Mutex<()>,
}

struct Shared {
    /// Number of the loop in the high half, [`CLOSED`], and in the low bits how many workers have joined it.
    state: Line<AtomicU64>,
    finished: Line<AtomicUsize>,
    /// Tasks that are left of each thread's share: the first in the high half, one past the last in the low half.
    shares: Box<[Line<AtomicU64>]>,
    asleep: Box<[Line<AtomicBool>]>,
    job: UnsafeCell<Job>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    shutdown: AtomicBool,
    /// The thread whose loop is running.
    caller: Mutex<Option<Thread>>,
    caller_sleeps: AtomicBool,
}

/// The body of the running loop.
#[derive(Clone, Copy)]
struct Job(*const (dyn Fn(usize) + Sync));

/// No worker joins any more.
const CLOSED: u64 = 1 << 31;
const JOINED: u64 = CLOSED - 1;

/// A value with a cache line of its own.
#[repr(align(128))]
struct Line<T>(T);

// SAFETY: `job` is written only by the caller that holds `Pool::running`, while no worker is in the loop (the state is
// closed and all that joined have finished), and read only by workers that have joined it afterwards. The pointed-to
// function is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Shared {}

thread_local! {
    /// Whether this thread is inside a loop: a loop within it runs on this thread alone.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static CURRENT: RefCell<Option<Arc<Pool>>> = const { RefCell::new(None) };
}

static GLOBAL: OnceLock<Arc<Pool>> = OnceLock::new();

/// The process's pool exists already: its threads can no longer be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the threads were chosen already")]
pub struct AlreadyChosen;

/// Chooses the number of threads of the process (all physical cores that it may use when `None`), before any kernel runs.
///
/// With `pin`, each thread stays on a core of its own, on systems that allow it.
///
/// # Errors
/// When a kernel has run already, or this was called before.
pub fn configure(threads: Option<usize>, pin: bool) -> Result<(), AlreadyChosen> {
    let mut fresh = false;
    GLOBAL.get_or_init(|| {
        fresh = true;
        Arc::new(Pool::with_pinning(threads.unwrap_or_else(default_threads), pin))
    });
    if fresh { Ok(()) } else { Err(AlreadyChosen) }
}

/// Physical cores that this process may use.
pub fn default_threads() -> usize {
    let allowed = thread::available_parallelism().map_or(1, usize::from);
    allowed.min(num_cpus::get_physical()).max(1)
}

/// Calls `f` with every number below `tasks`, on the threads of the current pool; neighbouring tasks mostly on one thread.
///
/// # Panics
/// When `f` does.
pub(crate) fn for_each(tasks: usize, f: impl Fn(usize) + Sync) {
    with_current(|pool| pool.for_each(tasks, &f));
}

/// Threads of the current pool.
pub fn threads() -> usize {
    with_current(Pool::threads)
}

fn with_current<R>(f: impl FnOnce(&Pool) -> R) -> R {
    let installed = CURRENT.with_borrow(Clone::clone);
    match installed {
        Some(pool) => f(&pool),
        None => f(GLOBAL.get_or_init(|| Arc::new(Pool::new(default_threads())))),
    }
}

impl Pool {
    /// A pool of `threads` threads (at least one), the caller's among them.
    pub fn new(threads: usize) -> Self {
        Self::with_pinning(threads, false)
    }

    fn with_pinning(threads: usize, pin: bool) -> Self {
        let lines = |n: usize| (0..n).map(|_| Line(AtomicU64::new(0))).collect();
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            state: Line(AtomicU64::new(CLOSED)),
            finished: Line(AtomicUsize::new(0)),
            shares: lines(threads),
            asleep: (0..threads).map(|_| Line(AtomicBool::new(false))).collect(),
            job: UnsafeCell::new(Job(std::ptr::from_ref(&|_: usize| {}))),
            panic: Mutex::new(None),
            shutdown: AtomicBool::new(false),
            caller: Mutex::new(None),
            caller_sleeps: AtomicBool::new(false),
        });
        let cores = if pin { core_affinity::get_core_ids().unwrap_or_default() } else { Vec::new() };
        if let Some(core) = cores.first() {
            core_affinity::set_for_current(*core);
        }
        // WebAssembly has no threads, and not everywhere an error for who asks.
        let threads = if cfg!(target_family = "wasm") { 1 } else { threads };
        let workers = (1..threads).map_while(|index| {
            let (shared, core) = (shared.clone(), cores.get(index).copied());
            let work = move || {
                if let Some(core) = core {
                    core_affinity::set_for_current(core);
                }
                worker(&shared, index);
            };
            // Fewer threads than asked for are slower and not wrong.
            let handle = thread::Builder::new().name(format!("bitnet-{index}")).spawn(work).ok()?;
            Some((handle.thread().clone(), Some(handle)))
        });
        Self { workers: workers.collect(), shared, running: Mutex::new(()) }
    }

    /// Threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f` with this pool in place of the process's own.
    pub fn install<R>(self: &Arc<Self>, f: impl FnOnce() -> R) -> R {
        /// Puts the former pool back, after a panic too.
        struct Restore(Option<Arc<Pool>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        f()
    }

    fn for_each(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        let serial = || (0..tasks).for_each(f);
        if tasks <= 1 || self.workers.is_empty() || INSIDE.get() {
            return serial();
        }
        let _running = match self.running.try_lock() {
            Ok(guard) => guard,
            // A panic of an earlier loop was passed on to its caller; nothing of it is left here.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return serial(),
        };
        let shared = &*self.shared;
        let threads = self.threads();
        let tasks = u32::try_from(tasks).expect("fewer than 2^32 tasks");
        let begin = |index: usize| (u64::from(tasks) * index as u64 / threads as u64) << 32;
        for (index, share) in shared.shares.iter().take(threads).enumerate() {
            share.0.store(begin(index) | (begin(index + 1) >> 32), Ordering::Relaxed);
        }
        // SAFETY: no worker is in a loop (see `Sync`), and none is left in this one when this function returns, so the
        // lifetime that is taken away here is not outlived.
        unsafe {
            let f: *const (dyn Fn(usize) + Sync) = std::mem::transmute::<
                *const (dyn Fn(usize) + Sync + '_),
                *const (dyn Fn(usize) + Sync + 'static),
            >(std::ptr::from_ref(f));
            *shared.job.get() = Job(f);
        }
        *shared.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
        shared.finished.0.store(0, Ordering::Relaxed);
        let number = (shared.state.0.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        shared.state.0.store(number << 32, Ordering::SeqCst);
        for (index, (worker, _)) in self.workers.iter().enumerate() {
            if shared.asleep[index + 1].0.load(Ordering::SeqCst) {
                worker.unpark();
            }
        }
        shared.work(0, threads, f);
        let joined = (shared.state.0.fetch_or(CLOSED, Ordering::AcqRel) & JOINED) as usize;
        shared.wait_for(joined);
        let panicked = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(payload) = panicked {
            panic::resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::SeqCst);
        for (thread, handle) in &mut self.workers {
            thread.unpark();
            if let Some(handle) = handle.take() {
                // A worker catches the panics of its tasks.
                let _ = handle.join();
            }
        }
    }
}

impl Shared {
    /// Waits until so many workers have finished.
    fn wait_for(&self, joined: usize) {
        let done = || self.finished.0.load(Ordering::SeqCst) == joined;
        let mut wait = Wait::default();
        while !done() {
            if wait.is_over() {
                self.caller_sleeps.store(true, Ordering::SeqCst);
                while !done() {
                    thread::park();
                }
                self.caller_sleeps.store(false, Ordering::SeqCst);
            }
        }
    }

    /// Called by a worker that is done with the running loop.
    fn finish(&self) {
        self.finished.0.fetch_add(1, Ordering::SeqCst);
        if self.caller_sleeps.load(Ordering::SeqCst)
            && let Some(caller) = &*self.caller.lock().unwrap_or_else(PoisonError::into_inner)
        {
            caller.unpark();
        }
    }

    /// Takes tasks until none is left. A panic is kept for the caller, and the remaining tasks are not run.
    fn work(&self, index: usize, threads: usize, f: &(dyn Fn(usize) + Sync)) {
        INSIDE.set(true);
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            while let Some(task) = self.take(index, true) {
                f(task);
            }
            for other in (1..threads).map(|step| (index + step) % threads) {
                while let Some(task) = self.take(other, false) {
                    f(task);
                }
            }
        }));
        INSIDE.set(false);
        if let Err(payload) = result {
            self.shares.iter().for_each(|share| share.0.store(0, Ordering::Relaxed));
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
        }
    }

    /// One task of a share: its owner takes from the front, others from the back.
    fn take(&self, share: usize, front: bool) -> Option<usize> {
        let share = &self.shares[share].0;
        let mut left = share.load(Ordering::Relaxed);
        loop {
            let (first, end) = (left >> 32, left & u64::from(u32::MAX));
            if first >= end {
                return None;
            }
            let (task, rest) = if front { (first, left + (1 << 32)) } else { (end - 1, left - 1) };
            match share.compare_exchange_weak(left, rest, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(task as usize),
                Err(now) => left = now,
            }
        }
    }
}

/// The life of a worker.
fn worker(shared: &Shared, index: usize) {
    let mut seen = shared.state.0.load(Ordering::Acquire) >> 32;
    let mut wait = Wait::default();
    while !shared.shutdown.load(Ordering::Relaxed) {
        let state = shared.state.0.load(Ordering::Acquire);
        if state >> 32 == seen {
            if wait.is_over() {
                sleep(shared, index, seen);
                wait = Wait::default();
            }
            continue;
        }
        if state & CLOSED == 0 {
            if shared.state.0.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            // SAFETY: this worker has joined the loop, so its caller keeps the function alive until `finished` says so.
            unsafe {
                let job = *shared.job.get();
                shared.work(index, shared.shares.len(), &*job.0);
            }
            shared.finish();
        }
        seen = state >> 32;
        wait = Wait::default();
    }
}

/// Sleeps until there is a new loop.
fn sleep(shared: &Shared, index: usize, seen: u64) {
    shared.asleep[index].0.store(true, Ordering::SeqCst);
    while shared.state.0.load(Ordering::SeqCst) >> 32 == seen && !shared.shutdown.load(Ordering::SeqCst) {
        thread::park();
    }
    shared.asleep[index].0.store(false, Ordering::SeqCst);
}

/// Waiting in rounds.
#[derive(Default)]
struct Wait {
    rounds: u32,
    since: Option<Instant>,
}

impl Wait {
    /// Waits a moment; says whether it was long enough.
    fn is_over(&mut self) -> bool {
        std::hint::spin_loop();
        self.rounds = self.rounds.wrapping_add(1);
        // Reading the clock costs as much as some rounds.
        self.rounds.is_multiple_of(16) && self.since.get_or_insert_with(Instant::now).elapsed() > SPIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools() -> impl Iterator<Item = Arc<Pool>> {
        [1, 2, 3, 8].into_iter().map(|threads| Arc::new(Pool::new(threads)))
    }

    #[test]
    fn every_task_runs_once_however_often_and_after_sleep() {
        for pool in pools() {
            for round in 0..300usize {
                let tasks = round % 70;
                let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.for_each(tasks, &|task| {
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                if round % 100 == 0 {
                    thread::sleep(3 * SPIN);
                }
            }
        }
    }

    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "no threads")]
    fn a_loop_within_a_loop_and_loops_of_several_threads_run_whole() {
        for pool in pools() {
            let total = AtomicUsize::new(0);
            let nested = || {
                pool.for_each(10, &|_| {
                    pool.for_each(7, &|_| {
                        total.fetch_add(1, Ordering::Relaxed);
                    });
                });
            };
            thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(nested))));
            assert_eq!(total.into_inner(), 280);
        }
    }

    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "no unwinding")]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        for pool in pools() {
            let run = || pool.for_each(100, &|task| assert!(task != 60, "sixty"));
            let payload = panic::catch_unwind(AssertUnwindSafe(run)).unwrap_err();
            assert!(payload.downcast_ref::<&str>().is_some_and(|text| text.contains("sixty")));
            let count = AtomicUsize::new(0);
            pool.for_each(50, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 50);
        }
    }

    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "no threads")]
    fn an_installed_pool_is_the_current_one_and_only_there() {
        let pool = Arc::new(Pool::new(5));
        let outside = threads();
        assert_eq!(pool.install(threads), 5);
        assert_eq!(threads(), outside);
        assert_eq!(configure(Some(3), false), Err(AlreadyChosen));
    }
}
