//! The terminal while the dashboard has it.

use std::io::stdout;

use crossterm::cursor::Show;
use crossterm::event::DisableMouseCapture;
use crossterm::execute;
use crossterm::terminal::{LeaveAlternateScreen, disable_raw_mode};

/// Gives the terminal back as it was, whoever has it: for a process that ends at once.
pub fn restore() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), DisableMouseCapture, LeaveAlternateScreen, Show);
}

/// Makes Ctrl-C a signal again after the terminal was switched to raw mode, where it is a key like others, which the
/// dashboard does not listen to. Gives whether the terminal was in that mode.
#[cfg(unix)]
pub fn keep_signals() -> bool {
    use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

    /// What stands for no key at all.
    const DISABLED: u8 = if cfg!(any(target_os = "linux", target_os = "android")) { 0 } else { 0xff };

    let Ok(mut modes) = tcgetattr(stdout()) else { return false };
    if modes.local_modes.contains(LocalModes::ISIG) {
        return false;
    }
    modes.local_modes.insert(LocalModes::ISIG);
    // These would stop or end the process and leave the terminal to the shell as it is.
    for key in [SpecialCodeIndex::VSUSP, SpecialCodeIndex::VQUIT] {
        modes.special_codes[key] = DISABLED;
    }
    tcsetattr(stdout(), OptionalActions::Now, &modes).is_ok()
}

/// Here the dashboard is left with its own keys.
#[cfg(not(unix))]
pub fn keep_signals() -> bool {
    true
}
