//! A permutation of `0..n` that takes no memory.

/// Shuffles `0..n` by a key: a Feistel network over the smallest even number of bits that holds `n`, walked along its
/// cycles until the result falls below `n` (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permutation {
    n: u64,
    half_bits: u32,
    key: u64,
}

/// Enough that neighbours end up unrelated; this is a shuffle, no cipher.
const ROUNDS: u64 = 6;

impl Permutation {
    /// A permutation of `0..n`; `n` from 1 to 2^62.
    pub(crate) fn new(n: u64, key: u64) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        Self { n, half_bits: bits.div_ceil(2).max(1), key }
    }

    /// Where `index`, below `n`, goes. The domain is less than four times `n` (or is four numbers), so the walk takes
    /// fewer than four steps on average.
    pub(crate) fn apply(&self, index: u64) -> u64 {
        let mut at = self.network(index);
        while at >= self.n {
            at = self.network(at);
        }
        at
    }

    fn network(&self, index: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (index >> self.half_bits, index & mask);
        for round in 0..ROUNDS {
            let scrambled = mix(self.key ^ mix(right ^ round << 32)) & mask;
            (left, right) = (right, left ^ scrambled);
        }
        left << self.half_bits | right
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every input bit changes half of the output's.
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_number_comes_once(n in 1u64..3000, key: u64) {
            let permutation = Permutation::new(n, key);
            let mut all: Vec<_> = (0..n).map(|i| permutation.apply(i)).collect();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..n));
        }

        #[test]
        fn large_domains_stay_inside(n in 1u64..=1 << 62, key: u64, index: u64) {
            prop_assert!(Permutation::new(n, key).apply(index % n) < n);
        }
    }

    #[test]
    fn keys_and_neighbours_are_unrelated() {
        let (a, b) = (Permutation::new(1000, 1), Permutation::new(1000, 2));
        let same = (0..1000).filter(|&i| a.apply(i) == b.apply(i)).count();
        let follow = (1..1000).filter(|&i| a.apply(i) == a.apply(i - 1) + 1).count();
        assert!(same < 10 && follow < 10, "{same} {follow}");
    }
}
