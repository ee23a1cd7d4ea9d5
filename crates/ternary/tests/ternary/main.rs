//! The public face of the package: one binary, one module a subject.

mod common;
mod golden;
mod hostile;
mod layouts;
mod matrix;
mod quantizers;
