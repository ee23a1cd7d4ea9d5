//! Q3_K: three bits a value, a six-bit scale every sixteen.

use super::scale;

/// 256 values from 110 bytes: 32 of third bits, 64 of lower pairs, 12 of sub-scales, `d`.
///
/// Two halves of 128 values, each in eight runs of 16 with a sub-scale of their own. In a half, value `32·quarter + l` takes pair
/// `quarter` of byte `l` of the half's 32, and the third bit from bit `4·half + quarter` of byte `l`; without it, 4 is taken
/// off. `y = d·(sc − 32)·q`.
pub(super) fn read(bytes: &[u8], out: &mut [f32]) {
    let (third, rest) = bytes.split_at(32);
    let (pairs, rest) = rest.split_at(64);
    let (packed, d) = (&rest[..12], scale(rest, 12));
    for (run, out) in out.chunks_exact_mut(16).enumerate() {
        let (half, quarter, odd) = (run / 8, run % 8 / 2, run % 2);
        let gain = d * (f32::from(sub_scale(packed, run)) - 32.0);
        let pairs = &pairs[32 * half + 16 * odd..][..16];
        let third = &third[16 * odd..][..16];
        for ((y, pair), third) in out.iter_mut().zip(pairs).zip(third) {
            let low = f32::from((pair >> (2 * quarter)) & 3);
            let has_third = (third >> (4 * half + quarter)) & 1 == 1;
            *y = gain * if has_third { low } else { low - 4.0 };
        }
    }
}

/// The six-bit scale of run 0..16: four bits from the low nibbles of bytes 0..8, then from the high ones; two bits from
/// pair `run / 4` of bytes 8..12.
fn sub_scale(packed: &[u8], run: usize) -> u8 {
    let low = (packed[run % 8] >> (4 * (run / 8))) & 15;
    let high = (packed[8 + run % 4] >> (2 * (run / 4))) & 3;
    low | (high << 4)
}
