//! The one place where code is compiled for more than the oldest machine of its kind.

/// Loops over many bytes, which gain from vectors wider than the ones every machine has.
pub(crate) trait Wide {
    /// The loops. To be marked `#[inline(always)]`, as must be what they call.
    fn run(self);

    /// Runs the loops as compiled for AVX2, where the machine has it.
    fn run_widened(self)
    where
        Self: Sized,
    {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2")]
            fn with_avx2(body: impl Wide) {
                body.run();
            }
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the only condition of the call is that the machine has AVX2, which was just asked.
                return unsafe { with_avx2(self) };
            }
        }
        self.run();
    }
}
