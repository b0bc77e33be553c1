//! What `help` prints, from the property tables.
use super::props::{Kind, Prop, Table, type_text};
use std::fmt::Write;

/// The list that `--device help` (or `--object help`, …) prints.
#[must_use]
pub fn list(tables: &[&Table]) -> String {
    let width = tables.iter().map(|t| t.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for table in tables {
        let _ = writeln!(out, "  {:width$}  {}", table.name, table.help);
    }
    out
}

/// The properties that `--device NAME,help` prints, in QEMU's manner: name, type, meaning and
/// default.
#[must_use]
pub fn properties(table: &Table) -> String {
    let mut out = format!("{} options:\n", table.name);
    rows(&mut out, "", table.props);
    out
}

fn rows(out: &mut String, prefix: &str, props: &[Prop]) {
    for row in props.iter().filter(|row| !row.ignored) {
        let name = format!("{prefix}{}", row.name);
        if let Kind::Group(inner) = row.kind {
            rows(out, &format!("{name}."), inner);
            continue;
        }
        let left = format!("{name}=<{}>", type_text(row.kind));
        let _ = write!(out, "  {left:<34} - {}", row.help);
        match row.default {
            Some(default) => {
                let _ = writeln!(out, " (default: {default})");
            }
            None if row.required => out.push_str(" (required)\n"),
            None => out.push('\n'),
        }
        if let Kind::Groups(inner) = row.kind {
            rows(out, &format!("{name}.N."), inner);
        }
    }
}
