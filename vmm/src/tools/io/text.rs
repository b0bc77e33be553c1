//! How qemu-io writes numbers, times and data (qemu-io-cmds.c and util/cutils.c of QEMU 7.2 name the
//! forms).
use super::Failed;
use crate::spec::size;
use spindle_block::IoBuf;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

/// The longest request, in bytes (QEMU, BDRV_REQUEST_MAX_BYTES).
pub(super) const REQUEST_MAX: u64 = (i32::MAX as u64) >> 9 << 9;

/// Prints to standard output at once; a reader that has gone away is no reason to stop.
pub(super) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A line on standard output, and failure.
pub(super) fn refuse<T>(line: &str) -> Result<T, Failed> {
    say(&format!("{line}\n"));
    Err(Failed)
}

/// A line on the error stream, after the program's name, and failure.
pub(super) fn complain<T>(line: &str) -> Result<T, Failed> {
    eprintln!("{}: {line}", crate::tools::img::error::prefix());
    Err(Failed)
}

/// A byte count with an optional suffix.
pub(super) fn number(text: &str) -> Result<u64, Failed> {
    let long_suffix = |c: char| matches!(c, 'i' | ' ' | '\t');
    match size::parse(text, 1) {
        _ if text.contains(long_suffix) => {}
        Ok(value) if i64::try_from(value).is_ok() => return Ok(value),
        Ok(_) => return refuse(&format!("Parsing error: argument too large -- {text}")),
        Err(error) if error.contains("64 bits") => {
            return refuse(&format!("Parsing error: argument too large -- {text}"));
        }
        Err(_) => {}
    }
    refuse(&format!(
        "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {text}"
    ))
}

/// A byte count that a request may have.
pub(super) fn length(text: &str, unless: &str) -> Result<u64, Failed> {
    let len = number(text)?;
    if len > REQUEST_MAX {
        return refuse(&format!("length cannot exceed {REQUEST_MAX}{unless}, given {text}"));
    }
    Ok(len)
}

/// A byte, as C writes numbers.
pub(super) fn pattern(text: &str) -> Result<u8, Failed> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let value = match digits {
        Some(hex) => u8::from_str_radix(hex, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u8::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    };
    match value {
        Some(byte) => Ok(byte),
        None => refuse(&format!("{text} is not a valid pattern byte")),
    }
}

/// A byte count in the largest unit that it reaches.
pub(super) fn amount(value: f64) -> String {
    const UNITS: [(&str, u32); 6] =
        [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = UNITS.iter().find(|(_, bits)| value >= (1_u64 << bits) as f64);
    let (text, suffix) = match unit {
        Some((name, bits)) => (format!("{:.3}", value / (1_u64 << bits) as f64), *name),
        None => (format!("{value:.6}"), "bytes"),
    };
    let whole = text.find(".000").map_or(text.as_str(), |at| &text[..at]);
    format!("{whole} {suffix}")
}

fn time(took: Duration, fixed: bool) -> String {
    let seconds = took.as_secs();
    if fixed || seconds > 0 {
        let rest = (seconds % 60) as f64 + f64::from(took.subsec_nanos()) / 1e9;
        return format!("{}:{:02}:{rest:05.2}", seconds / 3600, seconds / 60 % 60);
    }
    format!("{:05.2} sec", f64::from(took.subsec_nanos()) / 1e9)
}

/// What a request came to.
pub(super) struct Report {
    /// `read`, `wrote` or `discard`.
    pub what: &'static str,
    pub offset: u64,
    pub count: u64,
    pub took: Duration,
    /// `-C`.
    pub terse: bool,
}

impl Report {
    pub fn print(&self) {
        let seconds = self.took.as_secs_f64();
        let Self { what, offset, count, .. } = self;
        let rate = *count as f64 / seconds;
        let operations = 1.0 / seconds;
        let took = time(self.took, self.terse);
        say(&if self.terse {
            format!("{count},1,{took},{rate:.3},{operations:.3}\n")
        } else {
            format!(
                "{what} {count}/{count} bytes at offset {offset}\n{}, 1 ops; {took} ({}/sec and \
                 {operations:.4} ops/sec)\n",
                amount(*count as f64),
                amount(rate),
            )
        });
    }
}

/// Bytes in hexadecimal and, where they are letters or digits, as those.
pub(super) fn dump(buffer: &IoBuf, offset: u64) {
    const ROW: u64 = 16;
    let mut at = 0;
    while at < buffer.len() {
        let len = ROW.min(buffer.len() - at);
        let mut row = [0; ROW as usize];
        let row = &mut row[..len as usize];
        buffer.read_at(at, row);
        let mut line = format!("{:08x}:  ", offset + at);
        for byte in row.iter() {
            let _ = write!(line, "{byte:02x} ");
        }
        line.push(' ');
        line.extend(
            row.iter().map(|b| if b.is_ascii_alphanumeric() { char::from(*b) } else { '.' }),
        );
        line.push('\n');
        say(&line);
        at += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_lose_their_zeros() {
        for (value, text) in [
            (0.0, "0 bytes"),
            (512.0, "512 bytes"),
            (3.25, "3.250000 bytes"),
            (1024.0, "1 KiB"),
            (1536.0, "1.500 KiB"),
            (1_048_576.0, "1 MiB"),
            (1e18, "888.178 PiB"),
        ] {
            assert_eq!(amount(value), text);
        }
    }

    #[test]
    fn times_are_short_or_fixed() {
        assert_eq!(time(Duration::from_millis(1234), false), "0:00:01.23");
        assert_eq!(time(Duration::from_millis(234), false), "00.23 sec");
        assert_eq!(time(Duration::from_millis(7_384_500), true), "2:03:04.50");
    }

    #[test]
    fn numbers_are_what_c_takes() {
        assert_eq!(number("0x10").ok(), Some(16));
        assert_eq!(number("1.5k").ok(), Some(1536));
        assert!(number("1KiB").is_err() && number("x").is_err() && number("9E").is_err());
        assert_eq!(pattern("0xff").ok(), Some(255));
        assert_eq!(pattern("017").ok(), Some(15));
        assert!(pattern("256").is_err() && pattern("-1").is_err() && pattern("").is_err());
    }
}
