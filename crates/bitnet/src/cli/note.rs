//! Lines for the user, on stderr.

use std::fmt::Display;
use std::io::{Write, stderr};

/// Writes one line. A reader that has gone away is no reason to stop.
pub fn note(line: impl Display) {
    let _ = writeln!(stderr(), "{}", spelled_out(&line.to_string()));
}

/// Control characters, which the names in a file may hold, as escapes: they are for the user to read and not for the
/// terminal to obey.
pub fn spelled_out(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_line_moves_the_cursor() {
        assert_eq!(spelled_out("bit\n\u{1b}[31mnet — ok"), "bit\\n\\u{1b}[31mnet — ok");
    }
}
