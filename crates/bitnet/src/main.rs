//! The `bitnet` program.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    keep_freed_memory();
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough.
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            cli::note(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Every step of a model allocates and frees the same megabytes. By default the GNU allocator gives them back to the system
/// each time, which then has to clear them again: half of the time of a short step.
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const KEEP: libc::c_int = 256 << 20;
        // SAFETY: no other thread runs yet, and the values are within the documented range.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEEP);
        }
    }
}
