//! Byte counts as people type them: `512M`, `1.5G`, `64k`, `0x1000`.

/// Parses a byte count. A suffix `b k m g t p e` (either case, an optional `iB` or `B` after it)
/// multiplies by powers of 1024 as in QEMU; without one `unit` applies. Fractions are allowed
/// with a suffix (`1.5G`) and must come out as whole bytes; `0x` starts a hexadecimal number.
///
/// # Errors
///
/// A sentence saying what is wrong, without the name of the option.
pub fn parse(text: &str, unit: u64) -> Result<u64, String> {
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).map_err(|_| not_a_size(text));
    }
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let multiplier = multiplier(suffix, unit).ok_or_else(|| not_a_size(text))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) {
        return Err(not_a_size(text));
    }
    let whole: u64 = whole.parse().map_err(|_| too_large(text))?;
    let base = whole.checked_mul(multiplier).ok_or_else(|| too_large(text))?;
    base.checked_add(fraction_bytes(fraction, multiplier).ok_or_else(|| not_a_size(text))?)
        .ok_or_else(|| too_large(text))
}

/// Formats a byte count with the largest suffix that divides it: `1G`, `1536M`, `513`.
#[must_use]
pub fn format(bytes: u64) -> String {
    let mut value = bytes;
    let mut suffix = 0;
    const SUFFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    while value != 0 && value.is_multiple_of(1024) && suffix + 1 < SUFFIXES.len() {
        value /= 1024;
        suffix += 1;
    }
    format!("{value}{}", SUFFIXES[suffix])
}

fn multiplier(suffix: &str, unit: u64) -> Option<u64> {
    let mut suffix = suffix.to_ascii_lowercase();
    if suffix.is_empty() {
        return Some(unit);
    }
    if suffix.len() > 1 {
        suffix = suffix.strip_suffix("ib").or_else(|| suffix.strip_suffix('b'))?.to_owned();
    }
    let power = ["b", "k", "m", "g", "t", "p", "e"].iter().position(|s| *s == suffix)?;
    Some(1 << (10 * power))
}

/// `fraction` (digits after the point) of `multiplier`, if it is a whole number of bytes.
fn fraction_bytes(fraction: &str, multiplier: u64) -> Option<u64> {
    if fraction.is_empty() {
        return Some(0);
    }
    if fraction.len() > 18 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let product = u128::from(fraction.parse::<u64>().ok()?) * u128::from(multiplier);
    // 0.1G is not a whole number of bytes; QEMU rounds down, and so do we, but not below one.
    let bytes = u64::try_from(product / scale).ok()?;
    (bytes > 0 || product == 0).then_some(bytes)
}

fn not_a_size(text: &str) -> String {
    format!("'{text}' is not a size; type a number with an optional suffix k, M, G, T, P or E")
}

fn too_large(text: &str) -> String {
    format!("'{text}' is larger than 64 bits can hold")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_multiply_by_powers_of_1024() {
        assert_eq!(parse("512", 1), Ok(512));
        assert_eq!(parse("512", 1 << 20), Ok(512 << 20));
        assert_eq!(parse("64k", 1), Ok(65536));
        assert_eq!(parse("64KiB", 1), Ok(65536));
        assert_eq!(parse("1.5G", 1), Ok(3 << 29));
        assert_eq!(parse("2T", 1), Ok(2 << 40));
        assert_eq!(parse("0x1000", 1), Ok(4096));
        assert_eq!(parse("7B", 1 << 20), Ok(7));
        assert_eq!(parse("0.1k", 1), Ok(102));
    }

    #[test]
    fn nonsense_and_overflow_are_refused() {
        for bad in
            ["", "k", "1.", ".5G", "1..5G", "12q", "-1", "1e3", "0x", "1 G", "1kk", "0.0001b"]
        {
            assert!(parse(bad, 1).is_err(), "{bad}");
        }
        assert!(parse("16E", 1).is_err_and(|e| e.contains("64 bits")));
        assert!(parse("99999999999999999999", 1).is_err_and(|e| e.contains("64 bits")));
    }

    #[test]
    fn formatting_is_the_inverse() {
        for bytes in [0, 1, 512, 513, 1024, 1 << 20, 3 << 29, 1 << 40, u64::MAX] {
            assert_eq!(parse(&format(bytes), 1), Ok(bytes), "{bytes}");
        }
        assert_eq!(format(1 << 30), "1G");
        assert_eq!(format(1536 << 20), "1536M");
    }
}
