//! What the machine does at most: how fast it reads memory, and how many int8 products it makes a second.
//!
//! Decoding is bound by the first and prefill by the second, so a speed says more as a share of them (Williams et al.,
//! "Roofline", CACM 52(4), 2009). Both move with the neighbours of a shared machine and with its clock: measure them right
//! beside what is to be judged.

use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use memmap2::MmapMut;

use super::isa::Isa;
use super::{parallel, pool};

/// How often the memory is read, and how often the loop of products runs: the fastest time counts.
const ROUNDS: usize = 8;

/// A round of products takes at least this long, so that waking the threads does not count.
const PRODUCTS_ROUND: Duration = Duration::from_millis(15);

/// Tasks of a thread: few enough for long contiguous reads, more than one so that a thread that is held up is helped.
const TASKS: usize = 8;

/// Memory to read, in huge pages where the system has them.
///
/// ```
/// use bitnet_kernels::{Isa, cpu::probe::ReadProbe};
///
/// let probe = ReadProbe::new(16 << 20)?;
/// let bytes_per_second = probe.bandwidth(Isa::active());
/// assert!(bytes_per_second > 0.0);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct ReadProbe {
    memory: MmapMut,
}

impl ReadProbe {
    /// `bytes` of memory (at least one). To measure memory and not caches, they must be several times what the last cache
    /// holds.
    ///
    /// # Errors
    /// When there is not so much memory.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let mut memory = MmapMut::map_anon(bytes.max(1))?;
        #[cfg(target_os = "linux")]
        // An advice: a kernel without huge pages may refuse it.
        let _ = memory.advise(memmap2::Advice::HugePage);
        // Written by the thread that will read them, pages are made near it.
        let part = memory.len().div_ceil(tasks());
        parallel::chunks(&mut memory, part, usize::MAX, |_, part| part.fill(1));
        Ok(Self { memory })
    }

    /// Bytes that it holds in memory.
    pub fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// Bytes a second, read by the threads of the current pool together, each its own contiguous part; the best of several
    /// rounds.
    ///
    /// # Panics
    /// When this processor cannot run `isa`.
    pub fn bandwidth(&self, isa: Isa) -> f64 {
        isa.check();
        let parts: Vec<&[u8]> = self.memory.chunks(self.memory.len().div_ceil(tasks())).collect();
        let time = shortest(ROUNDS, parts.len(), |task| {
            let part = parts[task];
            black_box(match isa {
                Isa::Scalar => read(part),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `Isa::check` has passed, and every other instruction set of x86-64 includes AVX2.
                _ => unsafe { read_avx2(part) },
                #[cfg(not(target_arch = "x86_64"))]
                _ => read(part),
            });
        });
        self.memory.len() as f64 / time.as_secs_f64()
    }
}

/// Multiply-adds of an int8 and a 2-bit code a second, by the threads of the current pool together: a loop of nothing but
/// the instructions that `isa` has for it, all in registers; the best of several rounds.
///
/// Where products are added in 16 bits, they are widened as seldom as 2-bit codes allow: no kernel can do better.
///
/// # Panics
/// When this processor cannot run `isa`.
pub fn int8_peak(isa: Isa) -> f64 {
    isa.check();
    let (run, products) = products_loop(isa);
    let time = |rounds: usize, passes: u64| {
        shortest(rounds, tasks(), |_| {
            // SAFETY: `Isa::check` has passed, and this is the loop for `isa`.
            black_box(unsafe { run(passes) });
        })
    };
    let mut passes = 1;
    while time(1, passes) < PRODUCTS_ROUND {
        passes *= 2;
    }
    (tasks() as u64 * passes * products) as f64 / time(ROUNDS, passes).as_secs_f64()
}

fn tasks() -> usize {
    TASKS * pool::threads()
}

/// The shortest time of several rounds that the threads of the current pool need for the tasks.
fn shortest(rounds: usize, tasks: usize, task: impl Fn(usize) + Sync) -> Duration {
    let round = |_| {
        let begin = Instant::now();
        pool::for_each(tasks, &task);
        begin.elapsed()
    };
    (0..rounds).map(round).min().unwrap_or_default()
}

/// Reads all whole blocks of 512 bytes; the sums are many so that none waits for another.
#[inline(always)]
fn read(memory: &[u8]) -> u64 {
    let mut sums = [0u64; 64];
    let (words, _) = memory.as_chunks::<8>();
    for words in words.as_chunks::<64>().0 {
        sums.iter_mut().zip(words).for_each(|(sum, word)| *sum ^= u64::from_ne_bytes(*word));
    }
    sums.iter().fold(0, |a, b| a ^ b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn read_avx2(memory: &[u8]) -> u64 {
    read(memory)
}

/// A loop that runs as often as it is told, and its products in one pass.
type ProductsLoop = (unsafe fn(u64) -> i32, u64);

fn products_loop(isa: Isa) -> ProductsLoop {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => (x86::dpbusd, x86::DPBUSD_PRODUCTS),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => (x86::maddubs, x86::MADDUBS_PRODUCTS),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => (x86::dpbusd_avx, x86::DPBUSD_256_PRODUCTS),
        #[cfg(target_arch = "x86_64")]
        Isa::Vnni256 => (x86::dpbusd_256, x86::DPBUSD_256_PRODUCTS),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm => (arm::smmla, arm::SMMLA_PRODUCTS),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod => (arm::sdot, arm::SDOT_PRODUCTS),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => (arm::smlal, arm::SMLAL_PRODUCTS),
        Isa::Scalar => (portable, PORTABLE_PRODUCTS as u64),
        #[allow(unreachable_patterns)]
        other => unreachable!("{other} has passed Isa::check and has no loop"),
    }
}

/// Length of the portable dot product: both factors stay in the first cache.
const PORTABLE_PRODUCTS: usize = 4096;

/// Plain Rust has no say in what is in registers: the best there is is a dot product that compilers make vectors of. They
/// find an instruction for factors of 16 bits and none for narrower ones.
fn portable(passes: u64) -> i32 {
    let (codes, x) = ([2i16; PORTABLE_PRODUCTS], [3i16; PORTABLE_PRODUCTS]);
    let mut total = 0i32;
    for _ in 0..passes {
        let products = black_box(&codes).iter().zip(black_box(&x)).map(|(code, x)| i32::from(*code) * i32::from(*x));
        total ^= products.sum::<i32>();
    }
    total
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// `vpdpbusd` has a latency of at most five cycles and starts at most twice a cycle.
    const DPBUSD_SUMS: usize = 24;
    pub const DPBUSD_PRODUCTS: u64 = 64 * DPBUSD_SUMS as u64;

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub fn dpbusd(passes: u64) -> i32 {
        let (codes, x) = (_mm512_set1_epi8(black_box(2)), _mm512_set1_epi8(black_box(3)));
        // Sums that begin alike would stay alike, and be computed once.
        let mut sums: [__m512i; DPBUSD_SUMS] = std::array::from_fn(|i| _mm512_set1_epi32(i as i32));
        for _ in 0..passes {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbusd_epi32(*sum, codes, x));
        }
        sums.iter().fold(0, |a, sum| a ^ _mm512_reduce_add_epi32(*sum))
    }

    /// Twelve sums of the 16 registers.
    const DPBUSD_256_SUMS: usize = 12;
    pub const DPBUSD_256_PRODUCTS: u64 = 32 * DPBUSD_256_SUMS as u64;

    macro_rules! dpbusd_256 {
        ($name:ident, $features:literal, $dpbusd:ident) => {
            #[target_feature(enable = $features)]
            pub fn $name(passes: u64) -> i32 {
                let (codes, x) = (_mm256_set1_epi8(black_box(2)), _mm256_set1_epi8(black_box(3)));
                let mut sums: [__m256i; DPBUSD_256_SUMS] = std::array::from_fn(|i| _mm256_set1_epi32(i as i32));
                for _ in 0..passes {
                    sums.iter_mut().for_each(|sum| *sum = $dpbusd(*sum, codes, x));
                }
                let sum = sums.into_iter().fold(_mm256_setzero_si256(), |a, sum| _mm256_xor_si256(a, sum));
                _mm256_extract_epi32::<0>(sum) ^ _mm256_extract_epi32::<7>(sum)
            }
        };
    }

    dpbusd_256!(dpbusd_avx, "avx2,avxvnni", _mm256_dpbusd_avx_epi32);
    dpbusd_256!(dpbusd_256, "avx2,avx512vl,avx512vnni", _mm256_dpbusd_epi32);

    /// `vpmaddubsw` and the addition after it have a latency of at most six cycles and start at most twice a cycle.
    const MADDUBS_SUMS: usize = 12;
    /// 64 times 2 · 2 · 128 is the most that fits 16 bits.
    const ADDED_IN_I16: usize = 64;
    pub const MADDUBS_PRODUCTS: u64 = (32 * MADDUBS_SUMS * ADDED_IN_I16) as u64;

    #[target_feature(enable = "avx2")]
    pub fn maddubs(passes: u64) -> i32 {
        let (codes, ones) = (_mm256_set1_epi8(black_box(2)), _mm256_set1_epi16(1));
        let mut sums: [__m256i; MADDUBS_SUMS] = std::array::from_fn(|i| _mm256_set1_epi8(i as i8 + 1));
        let mut total = _mm256_setzero_si256();
        for _ in 0..passes {
            for _ in 0..ADDED_IN_I16 {
                // The sum is a factor, or the compiler would see that the product is always the same.
                sums.iter_mut().for_each(|sum| *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(codes, *sum)));
            }
            sums.iter().for_each(|sum| total = _mm256_add_epi32(total, _mm256_madd_epi16(*sum, ones)));
        }
        _mm256_extract_epi32::<0>(total) ^ _mm256_extract_epi32::<7>(total)
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;
    use std::arch::asm;
    use std::hint::black_box;

    /// `sdot` has a latency of at most four cycles and starts at most four times a cycle.
    const SDOT_SUMS: usize = 24;
    pub const SDOT_PRODUCTS: u64 = 16 * SDOT_SUMS as u64;

    #[target_feature(enable = "neon,dotprod")]
    pub fn sdot(passes: u64) -> i32 {
        let (codes, x) = (vdupq_n_s8(black_box(2)), vdupq_n_s8(black_box(3)));
        let mut sums: [int32x4_t; SDOT_SUMS] = std::array::from_fn(|i| vdupq_n_s32(i as i32));
        for _ in 0..passes {
            for sum in &mut sums {
                // SAFETY: the instruction is there (`dotprod`), and touches nothing but these registers.
                unsafe {
                    asm!("sdot {sum:v}.4s, {codes:v}.16b, {x:v}.16b", sum = inout(vreg) *sum, codes = in(vreg) codes,
                        x = in(vreg) x, options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        sums.iter().fold(0, |a, sum| a ^ vaddvq_s32(*sum))
    }

    pub const SMMLA_PRODUCTS: u64 = 2 * SDOT_PRODUCTS;

    /// `smmla` takes as long as `sdot`, or twice as long, for twice the products.
    #[target_feature(enable = "neon,i8mm")]
    pub fn smmla(passes: u64) -> i32 {
        let (codes, x) = (vdupq_n_s8(black_box(2)), vdupq_n_s8(black_box(3)));
        let mut sums: [int32x4_t; SDOT_SUMS] = std::array::from_fn(|i| vdupq_n_s32(i as i32));
        for _ in 0..passes {
            for sum in &mut sums {
                // SAFETY: the instruction is there (`i8mm`), and touches nothing but these registers.
                unsafe {
                    asm!("smmla {sum:v}.4s, {codes:v}.16b, {x:v}.16b", sum = inout(vreg) *sum, codes = in(vreg) codes,
                        x = in(vreg) x, options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        sums.iter().fold(0, |a, sum| a ^ vaddvq_s32(*sum))
    }

    /// `smlal` has a latency of at most five cycles and starts at most four times a cycle; two of them make a chain.
    const SMLAL_SUMS: usize = 20;
    /// 128 times 2 · 128 is the most that fits 16 bits; a pass adds two products to each lane.
    const ADDED_IN_I16: usize = 64;
    pub const SMLAL_PRODUCTS: u64 = (16 * SMLAL_SUMS * ADDED_IN_I16) as u64;

    #[target_feature(enable = "neon")]
    pub fn smlal(passes: u64) -> i32 {
        let (codes, x) = (vdupq_n_s8(black_box(2)), vdupq_n_s8(black_box(3)));
        let mut sums: [int16x8_t; SMLAL_SUMS] = std::array::from_fn(|i| vdupq_n_s16(i as i16));
        let mut total = vdupq_n_s32(0);
        for _ in 0..passes {
            for _ in 0..ADDED_IN_I16 {
                for sum in &mut sums {
                    // Of the intrinsics the compiler would make additions: it sees that the product is always the same.
                    // SAFETY: the instructions are there (`neon`), and touch nothing but these registers.
                    unsafe {
                        asm!("smlal {sum:v}.8h, {codes:v}.8b, {x:v}.8b", "smlal2 {sum:v}.8h, {codes:v}.16b, {x:v}.16b",
                            sum = inout(vreg) *sum, codes = in(vreg) codes, x = in(vreg) x,
                            options(pure, nomem, nostack, preserves_flags));
                    }
                }
            }
            sums.iter().for_each(|sum| total = vpadalq_s16(total, *sum));
        }
        vaddvq_s32(total)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cpu::pool::Pool;

    #[test]
    fn every_instruction_set_reads_and_multiplies() {
        for threads in [1, 3] {
            Arc::new(Pool::new(threads)).install(|| {
                let probe = ReadProbe::new(1 << 20).unwrap();
                assert_eq!(probe.bytes(), 1 << 20);
                for isa in Isa::available() {
                    let (read, peak) = (probe.bandwidth(isa), int8_peak(isa));
                    assert!(read.is_finite() && read > 1e6, "{isa}, {threads} threads: {read} bytes a second");
                    assert!(peak.is_finite() && peak > 1e6, "{isa}, {threads} threads: {peak} products a second");
                }
            });
        }
    }

    #[test]
    fn all_whole_blocks_are_read() {
        let mut memory = vec![0u8; 1024 + 100];
        assert_eq!(read(&memory), 0);
        for at in [0, 7, 512, 1023] {
            memory.fill(0);
            memory[at] = 1;
            assert_ne!(read(&memory), 0, "byte {at}");
        }
    }

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        assert!(ReadProbe::new(usize::MAX / 2).is_err());
        for bytes in [0, 1, 1000] {
            assert!(ReadProbe::new(bytes).unwrap().bandwidth(Isa::Scalar).is_finite());
        }
    }
}
