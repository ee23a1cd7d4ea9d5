//! Devices of another process.
//!
//! Every operation is made of Burn's own, so the other side can be any server of Burn, without this crate: only those
//! operations, and not their results, pass over the network.

use burn::backend::Remote;

use crate::ops::TernaryOps;
use crate::ops::training::TrainingOps;

impl TernaryOps for Remote {}

impl TrainingOps for Remote {}
