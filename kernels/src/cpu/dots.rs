//! Int8 × 2-bit products of tiles, on the instruction set that was asked for. What each kernel is for, and where it was run:
//! the table in [`crate::cpu`].

use super::isa::Isa;
#[cfg(target_arch = "x86_64")]
use super::isa::Vectors;
use super::scalar;
use super::tiles::TILE_ROWS;

/// Tiles that one task takes: two of them share each activation that is read.
pub(crate) const PANEL: usize = 2;

/// `sum(code * x)` of up to two tiles for a block of `T` tokens into `out`, `[tile][token][row]`.
#[inline]
pub(crate) fn of_block<const T: usize>(
    isa: Isa,
    tiles: &[&[u32]],
    x: &[u32],
    out: &mut [[[i32; TILE_ROWS]; T]; PANEL],
) {
    #[cfg(target_arch = "x86_64")]
    if isa.vectors() == Vectors::Avx512 {
        return match *tiles {
            // SAFETY: whoever came in through a public function has passed `Isa::check`.
            [a, b] => unsafe { super::avx512::dots([a, b], x, out) },
            // SAFETY: as above.
            [a] => unsafe { super::avx512::dots([a], x, out) },
            _ => unreachable!("a panel has one or two tiles"),
        };
    }
    for (tile, out) in tiles.iter().zip(out) {
        *out = match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { super::avx2::dots(tile, x) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::AvxVnni => unsafe { super::vnni256::avx::dots(tile, x) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Vnni256 => unsafe { super::vnni256::avx512::dots(tile, x) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Isa::Neon => unsafe { super::neon::dots(tile, x) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Isa::NeonDotprod => unsafe { super::neon::dots_dotprod(tile, x) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Isa::NeonI8mm => unsafe { super::neon::dots_i8mm(tile, x) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Isa::Simd128 => super::simd128::dots(tile, x),
            _ => scalar::dots(tile, x),
        };
    }
}

/// [`of_block`] for one token: a decode step.
#[inline]
pub(crate) fn of_one(isa: Isa, tiles: &[&[u32]], x: &[u32], out: &mut [[[i32; TILE_ROWS]; 1]; PANEL]) {
    for (tile, out) in tiles.iter().zip(out) {
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => *out = unsafe { super::avx2::dots_of_one(tile, x) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::AvxVnni => *out = unsafe { super::vnni256::avx::dots_of_one(tile, x) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Vnni256 => *out = unsafe { super::vnni256::avx512::dots_of_one(tile, x) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512Vnni => unsafe { super::avx512::dots_of_one(tile, x, out) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Isa::NeonDotprod | Isa::NeonI8mm => *out = unsafe { super::neon::dots_of_one_dotprod(tile, x) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as in `of_block`.
            Isa::Neon => *out = unsafe { super::neon::dots(tile, x) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Isa::Simd128 => *out = super::simd128::dots(tile, x),
            _ => *out = scalar::dots(tile, x),
        }
    }
}

/// `sum(code * x)` of one tile with five trits in a byte, for one token.
#[inline]
pub(crate) fn of_dense_tile(isa: Isa, tile: &[u32], x: &[u32]) -> [i32; TILE_ROWS] {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { super::avx2::dense_dots(tile, x) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::AvxVnni => unsafe { super::vnni256::avx::dense_dots(tile, x) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Vnni256 => unsafe { super::vnni256::avx512::dense_dots(tile, x) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512Vnni => unsafe { super::avx512::dense_dots(tile, x) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon => unsafe { super::neon::dense_dots(tile, x) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::NeonDotprod | Isa::NeonI8mm => unsafe { super::neon::dense_dots_dotprod(tile, x) },
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Isa::Simd128 => super::simd128::dense_dots(tile, x),
        _ => scalar::dense_dots(tile, x),
    }
}

/// Takes the codes of a tile apart, `[word][plane][row]` with four codes each: worth it on AVX2, where many tokens meet them.
///
/// # Panics
/// When `codes` has not four times the words of the tile.
#[cfg(target_arch = "x86_64")]
pub(crate) fn unpack(tile: &[u32], codes: &mut [u32]) {
    // SAFETY: as in `of_block`.
    unsafe { super::avx2::unpack(tile, codes) };
}

/// [`of_block`] on AVX2, of tiles that are [`unpack`]ed.
#[cfg(target_arch = "x86_64")]
pub(crate) fn of_unpacked<const T: usize>(
    _: Isa,
    codes: &[&[u32]],
    x: &[u32],
    out: &mut [[[i32; TILE_ROWS]; T]; PANEL],
) {
    for (codes, out) in codes.iter().zip(out) {
        // SAFETY: as in `of_block`.
        *out = unsafe { super::avx2::dots_of_codes(codes, x) };
    }
}
