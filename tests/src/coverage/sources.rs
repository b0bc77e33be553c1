//! What the sources have: tests, and items that want to be tested.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Items;

fn rust_files(path: &Path, out: &mut Vec<PathBuf>) {
    if path.is_file() {
        out.push(path.to_owned());
        return;
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() || path.extension().is_some_and(|e| e == "rs") {
            rust_files(&path, out);
        }
    }
}

/// The tests in the files below `places`: path without its ending, `::`, function.
pub(super) fn tests_below(root: &Path, places: &[&str]) -> Vec<String> {
    let mut files = Vec::new();
    places.iter().for_each(|place| rust_files(&root.join(place), &mut files));
    files.sort();
    files.dedup();
    let mut tests = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let path = file.strip_prefix(root).unwrap_or(&file).with_extension("");
        let mut marked = false;
        for line in text.lines().map(str::trim) {
            marked |= line == "#[test]";
            if let Some(name) = function(line).filter(|_| marked) {
                tests.push(format!("{}::{name}", path.display()));
                marked = false;
            }
        }
    }
    tests
}

fn function(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub ").unwrap_or(line).strip_prefix("fn ")?;
    rest.split_once('(').map(|(name, _)| name)
}

/// The names that `list` asks for.
pub(super) fn items(root: &Path, list: &Items) -> Result<Vec<String>, String> {
    let text =
        fs::read_to_string(root.join(list.file)).map_err(|e| format!("{}: {e}", list.file))?;
    let head = format!("{} {{", list.container);
    let opens = |line: &&str| {
        let line = line.trim();
        line == head || line.starts_with("pub") && line.ends_with(&format!(" {head}"))
    };
    let mut lines = text.lines().skip_while(|line| !opens(line));
    let opening = lines.next().ok_or_else(|| format!("no {} in {}", list.container, list.file))?;
    let indent = &opening[..opening.len() - opening.trim_start().len()];
    let closing = format!("{indent}}}");
    let inner = format!("{indent}    ");
    let found: Vec<String> = lines
        .take_while(|line| **line != closing)
        .filter_map(|line| line.strip_prefix(&inner))
        .filter_map(
            |line| if list.container.starts_with("enum") { variant(line) } else { constant(line) },
        )
        .map(str::to_owned)
        .collect();
    if found.is_empty() {
        Err(format!("nothing in {} of {}", list.container, list.file))
    } else {
        Ok(found)
    }
}

fn constant(line: &str) -> Option<&str> {
    let rest = line
        .split_once("const ")
        .filter(|(before, _)| before.is_empty() || before.starts_with("pub"))?
        .1;
    // Not a `const fn`.
    rest.split_once(':').map(|(name, _)| name).filter(|name| !name.contains(' '))
}

fn variant(line: &str) -> Option<&str> {
    let end = line.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(line.len());
    let name = &line[..end];
    name.starts_with(|c: char| c.is_ascii_uppercase()).then_some(name)
}
