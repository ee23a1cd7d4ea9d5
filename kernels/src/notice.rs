//! What a user who asks for more should hear once.

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock, PoisonError};

static LISTENER: OnceLock<fn(&str)> = OnceLock::new();
static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// From now on `listener` hears, once each, of what runs in another way than a device's kernels would have it: an operation
/// without a kernel, a step that cannot be replayed. The first listener stays.
pub fn on_notice(listener: fn(&str)) {
    let _ = LISTENER.set(listener);
}

/// Tells the listener, if there is one and it has not heard of it yet.
pub fn notice(text: impl FnOnce() -> String) {
    if let Some(listener) = LISTENER.get() {
        let text = text();
        if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(text.clone()) {
            listener(&text);
        }
    }
}

/// An operation is done by its default body, which is made of Burn's own operations or goes over the host. Gradients
/// (`Autodiff`) are made of default bodies on purpose.
#[cfg(feature = "burn")]
pub(crate) fn default_body<B: burn::backend::Backend>(operation: &str, device: &burn::backend::tensor::Device<B>) {
    notice(|| format!("{operation} has no kernel on {}: done with operations of Burn", B::name(device)));
}
