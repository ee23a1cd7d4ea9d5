//! How much memory a trit takes.

use std::fmt;
use std::str::FromStr;

/// Bits that a weight takes in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightBits {
    /// Four trits in a byte.
    #[default]
    Two,
    /// Five trits in a byte: less to read for each token, more to compute.
    OnePointSix,
}

impl fmt::Display for WeightBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WeightBits::Two => "2bit",
            WeightBits::OnePointSix => "1.6bit",
        })
    }
}

impl FromStr for WeightBits {
    type Err = UnknownWeightBits;

    fn from_str(name: &str) -> Result<Self, UnknownWeightBits> {
        let all = [WeightBits::Two, WeightBits::OnePointSix];
        all.into_iter().find(|bits| bits.to_string() == name).ok_or_else(|| UnknownWeightBits(name.to_string()))
    }
}

/// Weights are not kept in so many bits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither 2bit nor 1.6bit")]
pub struct UnknownWeightBits(String);
