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

/// The reference of all options as Markdown: what `docs/options.md` holds.
#[must_use]
pub fn reference() -> String {
    let mut out = String::from(
        "# Options of `spindle run`\n\nGenerated from the tables that parse them \
         (`vmm/src/spec/`): a test compares, and `SPINDLE_BLESS=1` writes this page anew.\n\nA \
         comma within a value is typed twice. `--disk`, `--blockdev`, `--device` and `--object` take \
         JSON too: \
         `--device '{\"driver\": \"virtio-blk-pci\", …}'`.\n",
    );
    section(&mut out, "`--disk FILE[,KEY=VALUE…]`", &super::DISK);
    let nodes = Table { props: super::block::COMMON, ..super::block::RAW };
    section(&mut out, "`--blockdev DRIVER,…`: every node", &nodes);
    for table in super::block::DRIVERS {
        section(&mut out, &format!("`--blockdev {}`: {}", table.name, table.help), table);
    }
    for table in super::device::DEVICES {
        section(&mut out, &format!("`--device {}`: {}", table.name, table.help), table);
    }
    for table in super::object::OBJECTS {
        section(&mut out, &format!("`--object {}`: {}", table.name, table.help), table);
    }
    let settings = Table { props: super::draft::SETTINGS, ..super::block::RAW };
    section(
        &mut out,
        "`--config`: keys beside `disks`, `blockdevs`, `objects`, `devices`",
        &settings,
    );
    out
}

fn section(out: &mut String, title: &str, table: &Table) {
    let _ = write!(out, "\n## {title}\n\n| name | type | default | |\n|---|---|---|---|\n");
    markdown_rows(out, "", table.props);
}

fn markdown_rows(out: &mut String, prefix: &str, props: &[Prop]) {
    for row in props.iter().filter(|row| !row.ignored) {
        let name = format!("{prefix}{}", row.name);
        match row.kind {
            Kind::Group(inner) => markdown_rows(out, &format!("{name}."), inner),
            kind => {
                let kind_text = type_text(kind).replace('|', "\\|");
                let default = match row.default {
                    Some(text) => format!("`{text}`"),
                    None if row.required => "required".to_owned(),
                    None => String::new(),
                };
                let _ = writeln!(out, "| `{name}` | {kind_text} | {default} | {} |", row.help);
                if let Kind::Groups(inner) = kind {
                    markdown_rows(out, &format!("{name}.N."), inner);
                }
            }
        }
    }
}
