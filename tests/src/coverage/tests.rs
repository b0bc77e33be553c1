//! A table that is wrong is found out.

use std::fs;

use super::*;

const GOOD: Row = row("VIRTIO_F_ONE", "1.1", &["one::works"]);
const ITEMS: Items =
    Items { file: "spec.rs", container: "mod feature", except: &["MASK"], short: &[] };

fn group(items: Option<Items>, rows: &'static [Row]) -> Group {
    Group { title: "Features", prefix: "VIRTIO_F_", items, rows }
}

fn page(groups: &'static [Group]) -> Page {
    Page { name: "x", title: "X", specification: "X 1.0", tests: &["tests"], groups }
}

fn sources() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("tests/deep")).unwrap();
    let test =
        |name: &str| format!("#[test]\n#[should_panic]\nfn {name}() {{}}\nfn helper() {{}}\n");
    fs::write(at("tests/one.rs"), test("works")).unwrap();
    fs::write(at("tests/two.rs"), test("runs")).unwrap();
    fs::write(at("tests/deep/two.rs"), test("runs")).unwrap();
    let spec = "/// X.\npub mod feature {\n    /// A.\n    pub const ONE: u64 = 1;\n    pub const \
                MASK: u64 = 3;\n}\npub enum Reg {\n    /// A.\n    First,\n    Second { a: u8 },\n}\n\
                pub mod other {\n    const fn f(a: u8) {}\n    pub const THREE: u8 = 1;\n}\n\
                impl Code {\n    pub const FOUR: Self = Self(4);\n}\n";
    fs::write(at("spec.rs"), spec).unwrap();
    dir
}

fn wrong(items: Option<Items>, rows: &'static [Row]) -> Vec<String> {
    let dir = sources();
    let groups: &'static [Group] = vec![group(items, rows)].leak();
    check(dir.path(), &page(groups))
}

#[test]
fn a_sound_table_passes() {
    assert_eq!(wrong(Some(ITEMS), &[GOOD]), [""; 0]);
    const LONG: Row = row("VIRTIO_F_TWO", "1.2", &["deep/two::runs", "one::works"]);
    assert_eq!(wrong(Some(ITEMS), &[GOOD, LONG]), [""; 0]);
}

#[test]
fn a_row_without_a_test_fails() {
    const NONE: Row = row("VIRTIO_F_ONE", "1.1", &[]);
    assert!(wrong(None, &[NONE])[0].contains("no test shows it"));
}

#[test]
fn a_test_that_does_not_exist_fails() {
    const GONE: Row = row("VIRTIO_F_ONE", "1.1", &["one::was_renamed"]);
    assert!(wrong(None, &[GONE])[0].contains("no such test: one::was_renamed"));
    const HELPER: Row = row("VIRTIO_F_ONE", "1.1", &["one::helper"]);
    assert!(wrong(None, &[HELPER])[0].contains("no such test"), "a function without #[test]");
    const PART: Row = row("VIRTIO_F_ONE", "1.1", &["ne::works"]);
    assert!(wrong(None, &[PART])[0].contains("no such test"), "a part of a file's name");
}

#[test]
fn a_name_that_fits_two_tests_fails() {
    const TWICE: Row = row("VIRTIO_F_ONE", "1.1", &["two::runs"]);
    assert!(wrong(None, &[TWICE])[0].contains("more than one test"));
}

#[test]
fn an_item_without_a_row_fails() {
    let all = Items { except: &[], ..ITEMS };
    assert_eq!(wrong(Some(all), &[GOOD]), ["x: Features: MASK of mod feature has no row"]);
    let registers = Items { file: "spec.rs", container: "enum Reg", except: &[], short: &[] };
    const FIRST: Row = row("first", "1", &["one::works"]);
    assert_eq!(wrong(Some(registers), &[FIRST]), ["x: Features: Second of enum Reg has no row"]);
    let gone = Items { container: "enum Gone", ..registers };
    assert!(wrong(Some(gone), &[FIRST])[0].contains("no enum Gone in spec.rs"));
    let odd = Items { except: &["MASK", "NOT_THERE"], ..ITEMS };
    assert_eq!(wrong(Some(odd), &[GOOD]), ["x: Features: there is no NOT_THERE to except"]);
}

#[test]
fn a_stale_page_and_one_that_nobody_makes_fail() {
    let dir = tempfile::tempdir().unwrap();
    let groups: &'static [Group] = vec![group(None, &[GOOD])].leak();
    let pages = [page(groups)];
    assert_eq!(compare(dir.path(), &pages, false).len(), 2, "page and index are missing");
    assert_eq!(compare(dir.path(), &pages, true), [""; 0]);
    assert_eq!(compare(dir.path(), &pages, false), [""; 0]);
    let path = dir.path().join("x.md");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("| `VIRTIO_F_ONE` | 1.1 | `one::works` |"), "{text}");
    fs::write(&path, text + "\n").unwrap();
    assert!(compare(dir.path(), &pages, false)[0].ends_with("x.md: stale"));
    assert_eq!(compare(dir.path(), &pages, true), [""; 0]);
    fs::write(dir.path().join("old.md"), "").unwrap();
    assert!(compare(dir.path(), &pages, false)[0].ends_with("old.md: no table makes it"));
}

#[test]
fn a_short_name_stands_for_a_row() {
    let four = Items { container: "impl Code", except: &[], short: &[("FOUR", "Four")], ..ITEMS };
    const FOUR: Row = row("Four", "1", &["one::works"]);
    const THREE: Row = row("three", "1", &["one::works"]);
    assert_eq!(wrong(Some(four), &[FOUR]), [""; 0]);
    assert_eq!(wrong(Some(four), &[GOOD]), ["x: Features: FOUR of impl Code has no row"]);
    let gone = Items { short: &[("FIVE", "VIRTIO_F_ONE")], ..ITEMS };
    assert_eq!(wrong(Some(gone), &[GOOD]), ["x: Features: there is no FIVE to spell out"]);
    let other = Items { container: "mod other", except: &[], ..ITEMS };
    assert_eq!(wrong(Some(other), &[THREE]), [""; 0], "a const fn");
}
