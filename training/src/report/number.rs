//! Numbers as people read them.

/// At most four significant digits: `1.772`, `25.1k`, `1.5e-4`.
pub fn short(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => value.to_string(),
        0.0 => "0".to_string(),
        _ if !(9.9995e-4..9.9995e11).contains(&size) => {
            let text = format!("{value:.2e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{}e{exponent}", trimmed(digits))
        }
        _ if size >= 9.9995e8 => format!("{}G", significant(value / 1e9)),
        _ if size >= 9.9995e5 => format!("{}M", significant(value / 1e6)),
        _ if size >= 9.9995e3 => format!("{}k", significant(value / 1e3)),
        _ => significant(value),
    }
}

/// A whole number in groups of three.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            // A thin space that does not break: a comma is a point to half of the world.
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// `12 s`, `3 min 20 s`, `2 h 05 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        ..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// Four significant digits of a number between a thousandth and ten thousand.
fn significant(value: f64) -> String {
    let before = value.abs().log10().floor().max(-3.0) as i32;
    trimmed(&format!("{value:.*}", (3 - before).max(0) as usize)).to_string()
}

/// Without the zeros at the end of a fraction.
fn trimmed(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (1.77213, "1.772"),
            (-1.5, "-1.5"),
            (0.001, "0.001"),
            (0.00015, "1.5e-4"),
            (9999.0, "9999"),
            (9999.7, "10k"),
            (25_130.0, "25.13k"),
            (798_464.0, "798.5k"),
            (82e6, "82M"),
            (4e12, "4e12"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!([grouped(7), grouped(1234), grouped(1_234_567)], ["7", "1\u{202f}234", "1\u{202f}234\u{202f}567"]);
        assert_eq!([3.21, 59.6, 200.0, 7500.0].map(duration), ["3.2 s", "1 min 00 s", "3 min 20 s", "2 h 05 min"]);
    }
}
