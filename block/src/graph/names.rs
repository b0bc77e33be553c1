//! Names of nodes, by QEMU's rules (`id_wellformed`).

/// The longest name. QEMU's limit is 31; names made up for children (`disk0.file`) may be longer.
pub const MAX: usize = 127;

/// Whether a user may call a node this.
#[must_use]
pub fn is_valid(name: &str) -> bool {
    let mut chars = name.chars();
    name.len() <= MAX
        && chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

/// The `n`th name for a node that has none. No user can have given it.
#[must_use]
pub fn auto(n: u64) -> String {
    format!("#block{n:03}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_qemus() {
        for good in ["a", "disk0", "disk0.file", "A-b_c.d", &"n".repeat(MAX)] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "0disk", "#block000", "a b", "a/b", "ä", "a\n", "-x", &"n".repeat(MAX + 1)]
        {
            assert!(!is_valid(bad), "{bad}");
        }
        assert_eq!((auto(7), auto(1234)), ("#block007".to_owned(), "#block1234".to_owned()));
        assert!(!is_valid(&auto(0)));
    }
}
