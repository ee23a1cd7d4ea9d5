//! [`crate::TernaryOps`] on the backends that have their own version.

mod autodiff;
#[cfg(feature = "flex")]
mod flex;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod host;
#[cfg(feature = "ndarray")]
#[expect(deprecated, reason = "kept, thin, as long as Burn has this backend")]
mod ndarray;
