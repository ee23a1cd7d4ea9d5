//! [`crate::TernaryOps`] on the backends that have their own version.

mod autodiff;
mod autodiff_training;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod host;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod host_training;
#[cfg(feature = "ndarray")]
#[expect(deprecated, reason = "kept, thin, as long as Burn has this backend")]
mod ndarray;
#[cfg(feature = "remote")]
mod remote;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod written;
