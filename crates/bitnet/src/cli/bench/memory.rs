//! How much memory the process has taken.

/// The most bytes that were in memory at any time until now, where the system tells it (Linux).
pub fn peak_bytes() -> Option<u64> {
    peak_of_status(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmHWM` (the high-water mark of the resident set) of a `/proc/*/status`.
fn peak_of_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_found() {
        let status = "Name:\tbitnet\nVmPeak:\t  999 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 100 kB\n";
        assert_eq!(peak_of_status(status), Some(1234 * 1024));
        assert_eq!(peak_of_status("Name:\tbitnet\n"), None);
        assert_eq!(peak_of_status("VmHWM:\tmuch\n"), None);
    }
}
