//! What float products take their operands in.

use super::isa::Isa;
#[cfg(target_arch = "x86_64")]
use super::isa::Vectors;

/// What the float products of linear layers in training take their operands in; sums are F32 in any case.
///
/// It is for the products of backward passes, and for layers that compute with floats: exact integers stay exact. Int8
/// codes and trits are bfloat16 numbers as they are, so the slice kernels round only the gradient that comes in, times the
/// scales; but where weights have a scale for each group, trits times these as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bfloat16, ties to even.
    Bf16,
}

impl Precision {
    /// Whether the kernels have instructions for it: for bfloat16, AVX-512 BF16 (AMD Zen 4, Intel Cooper Lake).
    pub fn is_available(self, isa: Isa) -> bool {
        match self {
            Self::F32 => true,
            #[cfg(target_arch = "x86_64")]
            Self::Bf16 => isa.vectors() == Vectors::Avx512 && is_x86_feature_detected!("avx512bf16"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Bf16 => {
                let _ = isa;
                false
            }
        }
    }

    /// Operands that lie in 32 bits.
    pub(crate) fn in_a_word(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
        }
    }
}
