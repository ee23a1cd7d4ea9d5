//! Which instruction set the slice kernels run on, decided once at run time.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// An instruction set that the kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Portable Rust.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C (Intel Haswell, AMD Zen).
    Avx2,
    /// The same with AVX-VNNI, int8 products in vectors of 256 bits (Intel Alder Lake, AMD Zen 5).
    AvxVnni,
    /// What [`Isa::AvxVnni`] does with AVX-512's encoding of the same instructions.
    Vnni256,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI (Intel Cascade Lake, AMD Zen 4).
    Avx512Vnni,
    /// AArch64 with the NEON that every Armv8 core has.
    Neon,
    /// AArch64 with the `sdot` instruction (Armv8.2 dotprod: Cortex-A76, Apple M1, Graviton 2).
    NeonDotprod,
    /// The same with `smmla`, a product of small int8 matrices (Armv8.6 i8mm: Cortex-A710, Apple M2, Graviton 3).
    NeonI8mm,
    /// WebAssembly with the vectors of 128 bits that the module was compiled for.
    Simd128,
}

/// The vectors that an instruction set has for floats, where nothing else makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vectors {
    /// What the compiler makes of plain loops.
    Portable,
    /// 256 bits with AVX2, FMA and F16C.
    Avx2,
    /// 512 bits.
    Avx512,
}

impl Isa {
    const ALL: [Isa; 9] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Vnni256,
        Isa::Avx512Vnni,
        Isa::Neon,
        Isa::NeonDotprod,
        Isa::NeonI8mm,
        Isa::Simd128,
    ];

    /// The name that `BITNET_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Vnni256 => "vnni256",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Neon => "neon",
            Isa::NeonDotprod => "dotprod",
            Isa::NeonI8mm => "i8mm",
            Isa::Simd128 => "simd128",
        }
    }

    /// Whether this processor can run it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Isa::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Vnni256 | Isa::Avx512Vnni => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => Isa::Neon.is_available() && std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => Isa::NeonDotprod.is_available() && std::arch::is_aarch64_feature_detected!("i8mm"),
            Isa::Simd128 => cfg!(all(target_arch = "wasm32", target_feature = "simd128")),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// Which vectors a float kernel takes.
    pub(crate) fn vectors(self) -> Vectors {
        match self {
            Isa::Avx2 | Isa::AvxVnni | Isa::Vnni256 => Vectors::Avx2,
            Isa::Avx512Vnni => Vectors::Avx512,
            _ => Vectors::Portable,
        }
    }

    /// Every public function of [`crate::cpu`] that takes an `Isa` begins with this: what follows uses its instructions.
    ///
    /// # Panics
    /// When this processor cannot run it.
    pub(crate) fn check(self) {
        assert!(self.is_available(), "{self} is not an instruction set of this processor");
    }

    /// All that this processor can run, the best one last.
    pub fn available() -> Vec<Isa> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The instruction set that the backends use: `BITNET_ISA` if it is set, else the best available one.
    ///
    /// # Errors
    /// When `BITNET_ISA` names nothing that this processor can run.
    pub fn select() -> Result<Isa, IsaError> {
        static SELECTED: OnceLock<Result<Isa, IsaError>> = OnceLock::new();
        SELECTED
            .get_or_init(|| {
                let wanted = std::env::var_os("BITNET_ISA");
                Self::choose(wanted.as_deref().map(|name| name.to_string_lossy()).as_deref())
            })
            .clone()
    }

    /// [`Isa::select`] for code that cannot return an error; whoever loads a model has asked `select` before.
    ///
    /// # Panics
    /// When `BITNET_ISA` names nothing that this processor can run.
    pub fn active() -> Isa {
        match Self::select() {
            Ok(isa) => isa,
            Err(error) => panic!("{error}"),
        }
    }

    fn choose(wanted: Option<&str>) -> Result<Isa, IsaError> {
        match wanted {
            None | Some("") => Ok(Self::available().pop().unwrap_or(Isa::Scalar)),
            Some(name) => {
                let isa: Isa = name.parse()?;
                if isa.is_available() { Ok(isa) } else { Err(IsaError::new(name)) }
            }
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        Self::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| IsaError::new(name))
    }
}

/// `BITNET_ISA` asks for what is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("BITNET_ISA={wanted}: not an instruction set of this processor, which has {available}")]
pub struct IsaError {
    wanted: String,
    available: String,
}

impl IsaError {
    fn new(wanted: &str) -> Self {
        let available: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
        Self { wanted: wanted.to_string(), available: available.join(", ") }
    }
}

/// Compiles the body of a function once for each instruction set and calls the one that was asked for.
///
/// `fn name(isa, args) -> result = body` needs `body` to be `#[inline(always)]`. Floats stay the same to the bit: the
/// compiler may use wider vectors, but neither another order of additions nor fused ones.
macro_rules! on_each_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<const $generic:ident: $gtype:ty>)? ($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? = $body:expr) => {
        $(#[$meta])*
        $vis fn $name $(<const $generic: $gtype>)? (isa: $crate::cpu::isa::Isa, $($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
            fn avx512 $(<const $generic: $gtype>)? ($($arg: $type),*) $(-> $result)? {
                $body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,f16c")]
            fn avx2 $(<const $generic: $gtype>)? ($($arg: $type),*) $(-> $result)? {
                $body($($arg),*)
            }
            match isa.vectors() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: whoever came in through a public function has passed `Isa::check`.
                $crate::cpu::isa::Vectors::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::cpu::isa::Vectors::Avx2 => unsafe { avx2($($arg),*) },
                _ => $body($($arg),*),
            }
        }
    };
}
pub(crate) use on_each_isa;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_met_or_refused() {
        assert_eq!(Isa::choose(Some("scalar")), Ok(Isa::Scalar));
        assert_eq!(Isa::choose(None).as_ref(), Ok(Isa::available().last().unwrap()));
        let error = Isa::choose(Some("mmx")).unwrap_err().to_string();
        assert!(error.contains("BITNET_ISA=mmx") && error.contains("scalar"), "{error}");
        let foreign = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
        assert!(Isa::choose(Some(foreign)).is_err());
    }
}
