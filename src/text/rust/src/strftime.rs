//! `datetime.strftime` in the C locale, for `strftime_now`.

use crate::ffi::DateTime;
use std::fmt::Write;

const MONTHS: [&str; 12] = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
];
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// `format` with its % directives filled in; `%-d` and the like drop leading zeros. An unknown directive
/// stays as it is.
pub fn strftime(format: &str, t: &DateTime) -> String {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = chars.next();
        let short = code == Some('-');
        if short {
            code = chars.next();
        }
        match code {
            Some(code) => directive(code, short, t, &mut out),
            None => out.push('%'),
        }
    }
    out
}

fn directive(code: char, short: bool, t: &DateTime, out: &mut String) {
    let month = MONTHS[(t.month.clamp(1, 12) - 1) as usize];
    let day = DAYS[(t.weekday % 7) as usize];
    let hour12 = (t.hour + 11) % 12 + 1;
    let mut number = |value: u32, width: usize, fill: char| {
        let text = value.to_string();
        for _ in text.len()..if short { 0 } else { width } {
            out.push(fill);
        }
        out.push_str(&text);
    };
    match code {
        'd' => number(t.day, 2, '0'),
        'e' => number(t.day, 2, ' '),
        'm' => number(t.month, 2, '0'),
        'y' => number(t.year.rem_euclid(100) as u32, 2, '0'),
        'H' => number(t.hour, 2, '0'),
        'I' => number(hour12, 2, '0'),
        'M' => number(t.minute, 2, '0'),
        'S' => number(t.second, 2, '0'),
        'j' => number(t.yearday, 3, '0'),
        'w' => number(t.weekday, 1, '0'),
        'u' => number((t.weekday + 6) % 7 + 1, 1, '0'),
        'f' => out.push_str("000000"),
        'Y' => _ = write!(out, "{}", t.year),
        'B' => out.push_str(month),
        'b' | 'h' => out.push_str(&month[..3]),
        'A' => out.push_str(day),
        'a' => out.push_str(&day[..3]),
        'p' => out.push_str(if t.hour < 12 { "AM" } else { "PM" }),
        'F' => out.push_str(&strftime("%Y-%m-%d", t)),
        'T' | 'X' => out.push_str(&strftime("%H:%M:%S", t)),
        'R' => out.push_str(&strftime("%H:%M", t)),
        'D' | 'x' => out.push_str(&strftime("%m/%d/%y", t)),
        'c' => out.push_str(&strftime("%a %b %e %H:%M:%S %Y", t)),
        'z' | 'Z' => {}
        'n' => out.push('\n'),
        't' => out.push('\t'),
        '%' => out.push('%'),
        other => {
            out.push('%');
            if short {
                out.push('-');
            }
            out.push(other);
        }
    }
}
