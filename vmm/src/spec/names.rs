//! Names people type: whether one is well formed, and which known ones are near a wrong one.

/// How many near names an error shows at most.
const NEAR_MAX: usize = 3;

/// The longest identifier accepted for a node, object or device (QEMU allows 31 bytes for a node
/// name; ids of ours may be longer, for they are never stored in an image).
pub const ID_LEN_MAX: usize = 127;

/// Whether `id` can name a node, an object or a device: a letter first, then letters, digits,
/// `-`, `.` and `_` (QEMU's rule for identifiers).
#[must_use]
pub fn id_wellformed(id: &str) -> bool {
    id.len() <= ID_LEN_MAX
        && id.starts_with(|c: char| c.is_ascii_alphabetic())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

/// The names among `known` that `wrong` was probably meant to be, nearest first, three at most.
#[must_use]
pub fn near<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let key = fold(wrong);
    let limit = (key.chars().count() / 3).max(1);
    let mut found: Vec<(usize, &str)> = known
        .into_iter()
        .filter_map(|name| {
            let candidate = fold(name);
            let distance = strsim::damerau_levenshtein(&key, &candidate);
            let contained = key.len() >= 3 && candidate.contains(&key);
            (distance <= limit || contained).then_some((distance, name))
        })
        .collect();
    found.sort();
    found.dedup();
    found.into_iter().take(NEAR_MAX).map(|(_, name)| name.to_owned()).collect()
}

/// The end of an error sentence that offers near names: empty, or `; did you mean 'a' or 'b'?`.
#[must_use]
pub fn did_you_mean(near: &[String]) -> String {
    if near.is_empty() {
        return String::new();
    }
    let quoted: Vec<String> = near.iter().map(|name| format!("'{name}'")).collect();
    format!("; did you mean {}?", quoted.join(" or "))
}

fn fold(name: &str) -> String {
    name.trim_start_matches('-').to_ascii_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_follow_qemus_rule() {
        for good in ["disk0", "a", "Drive.file", "x-1_2"] {
            assert!(id_wellformed(good), "{good}");
        }
        for bad in ["", "0disk", "#block1", "a b", "ä", &"x".repeat(ID_LEN_MAX + 1)] {
            assert!(!id_wellformed(bad), "{bad}");
        }
    }

    #[test]
    fn near_names_ignore_dash_and_underscore_and_small_slips() {
        let known = ["logical_block_size", "num-queues", "queue-size", "serial"];
        assert_eq!(near("logical-block-size", known), ["logical_block_size"]);
        assert_eq!(near("num-queue", known), ["num-queues"]);
        assert_eq!(near("seriel", known), ["serial"]);
        assert!(near("bananas", known).is_empty());
        assert_eq!(did_you_mean(&near("queues", known)), "; did you mean 'num-queues'?");
        assert_eq!(did_you_mean(&[]), "");
    }
}
