//! Launches that are recorded once and replayed: graphs of CUDA and HIP, and what wgpu has in their place.

use std::thread::{self, ThreadId};

use burn::backend::{Backend, BackendTypes, Dispatch};
use burn::tensor::Device;

use crate::environment::{Variable, flag};
use crate::notice::notice;

/// Whether launches are recorded at all.
pub(crate) const REPLAY: Variable<bool> = Variable::new("BITNET_REPLAY", "0 or 1", flag);

/// A sequence of launches, with the buffers that it reads and writes.
#[derive(Clone, Debug)]
pub struct Recording {
    graph: <Dispatch as BackendTypes>::GraphPrimitive,
    device: Device,
    /// CubeCL has a queue for each thread, and a recording stays in the one that it was made in.
    thread: ThreadId,
}

/// Runs before the one that is recorded: nothing may be compiled, tuned or allocated then.
const WARM_UP: usize = 3;

/// Whether a device can record launches. `BITNET_REPLAY=0` says no for all.
///
/// # Panics
/// When that is set to neither 0 nor 1; [`crate::device`] has refused it before.
pub fn can_replay(device: &Device) -> bool {
    crate::device::replays(device) && REPLAY.value() != Some(false)
}

/// Records what `run` launches, after it has run some times; gives what the recorded run gave, which is only computed when
/// the recording is replayed, and the recording. `None` when the device cannot do it, which the listener of
/// [`crate::on_notice`] hears of.
///
/// `run` must do the same every time, and neither write to the device nor read from it.
pub fn record<T>(device: &Device, mut run: impl FnMut() -> T) -> Option<(T, Recording)> {
    let dispatch = device.as_dispatch();
    let mut attempt = || {
        Dispatch::graph_prepare(dispatch)?;
        for _ in 0..WARM_UP {
            // Kept until all is done: what nobody waits for need not be computed.
            let out = run();
            Dispatch::sync(dispatch)?;
            drop(out);
        }
        Dispatch::graph_start_capture(dispatch)?;
        let out = run();
        Ok::<_, burn::backend::ExecutionError>((out, Dispatch::graph_stop_capture(dispatch)?))
    };
    match attempt() {
        Ok((out, graph)) => Some((out, Recording { graph, device: device.clone(), thread: thread::current().id() })),
        Err(error) => {
            // One that was prepared and not begun is still open; the error is the one that is told.
            let _ = Dispatch::graph_stop_capture(dispatch);
            notice(|| format!("a step cannot be replayed on {}: {error}", Dispatch::name(dispatch)));
            None
        }
    }
}

impl Recording {
    /// Whether this is the thread that it was made in, where alone it is in order with what else is launched.
    pub fn is_of_this_thread(&self) -> bool {
        self.thread == thread::current().id()
    }

    /// Launches all that was recorded, on the buffers of the recorded run.
    ///
    /// # Safety
    /// This is the thread of the recording ([`Recording::is_of_this_thread`]). Every tensor that the recorded run has read or
    /// written is still there, with the buffer that it had then, and no other thread uses it meanwhile.
    ///
    /// # Errors
    /// When the device refuses.
    pub unsafe fn replay(&self) -> Result<(), burn::backend::ExecutionError> {
        // SAFETY: the caller says so.
        unsafe { Dispatch::graph_replay(self.device.as_dispatch(), &self.graph) }
    }
}
