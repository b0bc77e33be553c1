//! What qemu-img 7.2 and 10 say alike. Ours speaks as version 10 does; where the installed one is
//! older, what has changed since is taken out of both.

/// Standard output, error output and exit status.
pub type Said = (String, String, Option<i32>);

/// What is said, without what depends on the version.
pub fn alike((out, err, status): Said) -> Said {
    (plain_tables(&without_children(&out)), without_hints(&err), status)
}

/// Since 8.1, `info` lists the files below an image.
fn without_children(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    let indent = |line: &str| line.len() - line.trim_start().len();
    while let Some(line) = lines.next() {
        if line.starts_with("Child node '") {
            while lines.next_if(|next| next.starts_with("    ")).is_some() {}
            continue;
        }
        if line.trim_start() == "\"children\": [" {
            let depth = indent(line);
            while lines.next_if(|next| indent(next) > depth).is_some() {}
            lines.next();
            continue;
        }
        out.push_str(line);
        out.push('\n');
    }
    // An element that was the last has no comma any more.
    let out = if text.ends_with('\n') { out } else { out.trim_end_matches('\n').to_owned() };
    let mut kept: Vec<String> = out.lines().map(str::to_owned).collect();
    for at in 1..kept.len() {
        if kept[at].trim_start().starts_with(['}', ']']) {
            let before = kept[at - 1].trim_end_matches(',').to_owned();
            kept[at - 1] = before;
        }
    }
    kept.join("\n") + if text.ends_with('\n') { "\n" } else { "" }
}

/// Since 9.0 the list of snapshots has other columns.
fn plain_tables(text: &str) -> String {
    if !text.contains("Snapshot list:") {
        return text.to_owned();
    }
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let line = words.join(" ").replace("VM SIZE", "VM_SIZE").replace("VM CLOCK", "VM_CLOCK");
        line.replace(" 0000:", " 00:") + "\n"
    };
    text.lines().map(line).collect()
}

/// Since 10.0 the hint names the command.
fn without_hints(text: &str) -> String {
    let kept = text.lines().filter(|line| !line.starts_with("Try '"));
    // Since 10.0 the number of an error is left out: `: -22 (Invalid argument)`.
    let line = |line: &str| match line.split_once(": -").zip(line.split_once(" (")) {
        Some(((start, rest), (_, text))) if rest.starts_with(|c: char| c.is_ascii_digit()) => {
            format!("{start}: {}", text.trim_end_matches(')'))
        }
        // Since 10.0.
        _ => line.replace(
            "Invalid number of coroutines. Allowed number of coroutines is between 1 and 16",
            "Invalid number of coroutines specified. Must be between 1 and 16.",
        ),
    };
    kept.map(|text| line(text) + "\n").collect()
}
