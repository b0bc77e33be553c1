//! Which test shows what of a specification: const tables, checked against the sources, and the
//! pages in `docs/coverage/` made from them.
//!
//! To add a controller:
//!
//! 1. Write `tests/tests/coverage/NAME.rs` with a `pub const PAGE: Page`: a [`Group`] for each of its
//!    register blocks, command sets, features, configuration fields and documented errors, with a
//!    [`row`] for each item: its name, the section it comes from, and the tests that show it.
//! 2. A test is named `file::function`, with more of its path in front (`nvme/admin::identify`) where
//!    that fits more than one below [`Page::tests`]. It carries `#[test]`.
//! 3. Point [`Group::items`] at the `enum`, or the `mod` or `impl` of constants, in the controller's
//!    `spec.rs`: then everything defined there needs a row, or a place in [`Items::except`]. A short
//!    name that is not the specification's is told apart in [`Items::short`].
//! 4. Add the page to `PAGES` in `tests/tests/coverage/main.rs`.
//! 5. `SPINDLE_BLESS=1 cargo test -p spindle-tests --test coverage` writes the pages. Without that, a
//!    row without a test, a test that does not exist, an item without a row and a stale page all fail.

mod sources;

use std::{fmt::Write as _, path::Path};

use sources::{items, tests_below};

/// A page of `docs/coverage/`.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Its file is `NAME.md`.
    pub name: &'static str,
    /// What it is about.
    pub title: &'static str,
    /// The specification and its revision.
    pub specification: &'static str,
    /// Directories and files, from the root of the sources, that hold the tests.
    pub tests: &'static [&'static str],
    /// What there is.
    pub groups: &'static [Group],
}

/// Items of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// What they are.
    pub title: &'static str,
    /// What the name of every row begins with, and the names in the sources do not.
    pub prefix: &'static str,
    /// Where the sources list them.
    pub items: Option<Items>,
    /// One for each.
    pub rows: &'static [Row],
}

/// The variants of an `enum`, or the constants of a `mod` or an `impl`.
#[derive(Clone, Copy, Debug)]
pub struct Items {
    /// The source file, from the root of the sources.
    pub file: &'static str,
    /// `enum NAME`, `mod NAME` or `impl NAME`.
    pub container: &'static str,
    /// What the specification does not know: masks and the like.
    pub except: &'static [&'static str],
    /// Names in the sources, and the names of the rows that they stand for.
    pub short: &'static [(&'static str, &'static str)],
}

/// One item of a specification.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The specification's name for it.
    pub name: &'static str,
    /// The section of the specification.
    pub section: &'static str,
    /// The tests that show it.
    pub tests: &'static [&'static str],
}

/// A [`Row`].
#[must_use]
pub const fn row(name: &'static str, section: &'static str, tests: &'static [&'static str]) -> Row {
    Row { name, section, tests }
}

/// A name without case and punctuation: `QueueSize`, `QUEUE_SIZE` and `queue_size` are one.
fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric()).collect::<String>().to_lowercase()
}

/// What is wrong with a page, one line each. `root` is the root of the sources.
#[must_use]
pub fn check(root: &Path, page: &Page) -> Vec<String> {
    let mut wrong = Vec::new();
    let known = tests_below(root, page.tests);
    if known.is_empty() {
        wrong.push(format!("{}: no tests below {:?}", page.name, page.tests));
    }
    for group in page.groups {
        let place = format!("{}: {}", page.name, group.title);
        for row in group.rows {
            if row.tests.is_empty() {
                wrong.push(format!("{place}: {}: no test shows it", row.name));
            }
            if row.section.is_empty() {
                wrong.push(format!("{place}: {}: no section", row.name));
            }
            if group.rows.iter().filter(|other| other.name == row.name).count() > 1 {
                wrong.push(format!("{place}: {}: more than one row", row.name));
            }
            for test in row.tests {
                let found = known.iter().filter(|name| is_named(name, test)).count();
                if found != 1 {
                    let many = if found == 0 { "no such test" } else { "more than one test" };
                    wrong.push(format!("{place}: {}: {many}: {test}", row.name));
                }
            }
        }
        wrong.extend(group.items.iter().flat_map(|items| uncovered(root, group, items, &place)));
    }
    wrong
}

/// Whether `full`, a path and a function, is what `short` names.
fn is_named(full: &str, short: &str) -> bool {
    full.strip_suffix(short).is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

fn uncovered(root: &Path, group: &Group, list: &Items, place: &str) -> Vec<String> {
    let defined = match items(root, list) {
        Ok(defined) => defined,
        Err(why) => return vec![format!("{place}: {why}")],
    };
    let rows: Vec<String> = group
        .rows
        .iter()
        .map(|row| plain(row.name.strip_prefix(group.prefix).unwrap_or(row.name)))
        .collect();
    let missing = |item: &&String| {
        let full = list.short.iter().find(|(short, _)| short == item);
        let covered = match full {
            Some((_, row)) => group.rows.iter().any(|other| other.name == *row),
            None => rows.contains(&plain(item)),
        };
        !list.except.contains(&item.as_str()) && !covered
    };
    let named = list.except.iter().map(|name| (name, "except"));
    let named = named.chain(list.short.iter().map(|(name, _)| (name, "spell out")));
    let unused = named.filter(|(name, _)| !defined.iter().any(|item| item == *name));
    defined
        .iter()
        .filter(missing)
        .map(|item| format!("{place}: {item} of {} has no row", list.container))
        .chain(unused.map(|(name, what)| format!("{place}: there is no {name} to {what}")))
        .collect()
}

const MADE: &str =
    "<!-- Made by `SPINDLE_BLESS=1 cargo test -p spindle-tests --test coverage`. -->";

/// A page as Markdown.
#[must_use]
pub fn render(page: &Page) -> String {
    let mut text = format!("{MADE}\n\n# {}\n\n", page.title);
    let _ = writeln!(text, "Sections are those of {}.", page.specification);
    let _ = writeln!(text, "Tests are below {}.", code_list(page.tests));
    for group in page.groups {
        let _ = writeln!(text, "\n## {}\n\n| | section | shown by |\n|---|---|---|", group.title);
        for row in group.rows {
            let tests = code_list(row.tests);
            let _ = writeln!(text, "| `{}` | {} | {tests} |", row.name, row.section);
        }
    }
    text
}

fn code_list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The list of all pages as Markdown.
#[must_use]
pub fn index(pages: &[Page]) -> String {
    let mut text = format!("{MADE}\n\n# What is tested\n\n");
    text.push_str(
        "Every register, request, feature, field and documented error, the section of its \
         specification,\nand the tests that show it. A row without a test does not pass \
         `make test`.\n\n| | items |\n|---|---|\n",
    );
    for page in pages {
        let rows: usize = page.groups.iter().map(|group| group.rows.len()).sum();
        let _ = writeln!(text, "| [{}]({}.md) | {rows} |", page.title, page.name);
    }
    text
}

/// Compares the pages in `dir` with `pages`, or (`bless`) writes them. Returns what is wrong.
#[must_use]
pub fn compare(dir: &Path, pages: &[Page], bless: bool) -> Vec<String> {
    let mut wanted: Vec<(String, String)> =
        pages.iter().map(|page| (format!("{}.md", page.name), render(page))).collect();
    wanted.push(("README.md".to_owned(), index(pages)));
    let present = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut wrong: Vec<String> = present
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !wanted.iter().any(|(file, _)| file == name))
        .map(|name| format!("{}: no table makes it", dir.join(name).display()))
        .collect();
    for (name, text) in wanted {
        let path = dir.join(name);
        if bless {
            let written = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&path, text));
            wrong.extend(written.err().map(|e| format!("{}: {e}", path.display())));
        } else if !std::fs::read_to_string(&path).is_ok_and(|found| found == text) {
            wrong.push(format!("{}: stale", path.display()));
        }
    }
    wrong
}

#[cfg(test)]
mod tests;
