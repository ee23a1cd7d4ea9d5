//! Memory for the words of a large matrix.

/// Below this a system call is not worth its time.
#[cfg(target_os = "linux")]
const LARGE: usize = 256 << 10;

/// `len` words of zero that are about to be written.
pub(crate) fn zeroed_words(len: usize) -> Vec<u32> {
    zeroed(len)
}

/// `len` zeros that are about to be overwritten with something else.
///
/// A model is opened by writing half a gigabyte of words, and most of that time goes into page faults. So Linux is asked
/// for huge pages, and to make all pages at once, which costs less than one fault after the other.
pub fn zeroed<T: Zero>(len: usize) -> Vec<T> {
    let words = vec![T::ZERO; len];
    #[cfg(target_os = "linux")]
    if size_of_val(&words[..]) >= LARGE {
        let start = words.as_ptr().addr();
        let end = start + size_of_val(&words[..]);
        // SAFETY: this only asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        if let Ok(page) = usize::try_from(page) {
            // The pages at both ends, too: a huge page begins where the mapping does, which has some bytes of the allocator
            // in front, and neighbouring mappings become one.
            advise(&words, start / page * page, end.next_multiple_of(page), libc::MADV_HUGEPAGE);
            advise(&words, start.next_multiple_of(page), end / page * page, libc::MADV_POPULATE_WRITE);
        }
    }
    words
}

/// A number that [`zeroed`] makes many of.
pub trait Zero: Copy {
    /// The number 0, all of whose bits are clear.
    const ZERO: Self;
}

impl Zero for u32 {
    const ZERO: Self = 0;
}

impl Zero for u8 {
    const ZERO: Self = 0;
}

impl Zero for f32 {
    const ZERO: Self = 0.0;
}

/// Gives the kernel an advice about the pages of `words` from `start` to `end`. An old kernel may refuse: it is an advice.
#[cfg(target_os = "linux")]
fn advise<T>(words: &[T], start: usize, end: usize, advice: libc::c_int) {
    if start < end {
        let address = words.as_ptr().with_addr(start).cast_mut().cast();
        // SAFETY: the pages are those of `words`, all of which are mapped, and neither advice changes what is in memory.
        unsafe { libc::madvise(address, end - start, advice) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_zero_whatever_their_number() {
        for len in [0, 1, 1000, 65_536, 65_537, 1_000_000, 2_345_678] {
            let words = zeroed_words(len);
            assert_eq!(words.len(), len);
            assert!(words.iter().all(|word| *word == 0));
        }
    }
}
