//! How qemu-img writes sizes.
use serde_json::Value;

/// A byte count in three significant digits: `1.5 GiB`, `196 KiB` (QEMU, util/cutils.c,
/// size_to_str).
pub(super) fn human_size(bytes: u64) -> String {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    // The next suffix begins at 1000 of the last, so that there are never four digits.
    let mut index = 0;
    let mut unit = 1_u64;
    while index + 1 < SUFFIXES.len() && bytes as f64 >= 1000.0 * unit as f64 {
        index += 1;
        unit <<= 10;
    }
    format!("{} {}B", three_digits(bytes as f64 / unit as f64), SUFFIXES[index])
}

/// C's `%0.3g` for numbers from 0 to 1000.
fn three_digits(value: f64) -> String {
    // Rounding to three digits may carry into the next one: 9.996 is 10.
    let decimals = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else if value >= 0.9995 {
        2
    } else {
        3
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    text
}

/// The members of every object in the order in which QEMU's hash table has them (qobject/qdict.c:
/// 512 buckets, the hash function of TDB).
#[must_use]
pub(crate) fn in_buckets(value: Value) -> Value {
    const BUCKETS: u32 = 512;
    fn bucket(name: &str) -> u32 {
        let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
        let start = 0x238f_13af_u32.wrapping_mul(len);
        let sum = name
            .bytes()
            .enumerate()
            .fold(start, |sum, (i, byte)| sum.wrapping_add(u32::from(byte) << (i * 5 % 24)));
        sum.wrapping_mul(1_103_515_243).wrapping_add(12_345) % BUCKETS
    }
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.into_iter().collect();
            // In one bucket, the last comes first.
            members.reverse();
            members.sort_by_key(|(name, _)| bucket(name));
            members.into_iter().map(|(name, value)| (name, in_buckets(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(in_buckets).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_significant_digits() {
        let cases = [
            (0, "0 B"),
            (512, "512 B"),
            (999, "999 B"),
            (1000, "0.977 KiB"),
            (1024, "1 KiB"),
            (200_704, "196 KiB"),
            (3 << 29, "1.5 GiB"),
            (1 << 30, "1 GiB"),
            (10_235_904, "9.76 MiB"),
            (1_073_217_536, "1 GiB"),
            (1_047_527_424, "999 MiB"),
            (1 << 62, "4 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(human_size(bytes), text, "{bytes}");
        }
    }
}
