//! What a guest's serial console tells: the end marker, signs of life, signs of death.

/// How `/init` and `spindle-job` say that a job has ended.
const END: &str = "<<spindle: job ended with status ";

/// What they print while the job runs (`spindle.heartbeat=`).
const ALIVE: &str = "<<spindle: alive>>";

/// Texts of a kernel that has lost its way.
const DEATHS: [&str; 7] = [
    "Kernel panic - not syncing",
    "Oops: ",
    "BUG: ",
    "general protection fault",
    "invalid opcode: ",
    "double fault",
    "soft lockup",
];

/// The exit status of the job, if the text has the end marker. The last one counts.
pub fn job_status(text: &str) -> Option<i32> {
    let after = &text[text.rfind(END)? + END.len()..];
    after.split_once(">>")?.0.parse().ok()
}

/// Whether the text shows a kernel that oopsed; the line that says so.
pub fn death(text: &str) -> Option<&str> {
    text.lines().find(|line| DEATHS.iter().any(|sign| line.contains(sign)))
}

/// The text without carriage returns and heartbeats.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.replace('\r', "").split_inclusive('\n') {
        if line.trim_end() != ALIVE {
            out.push_str(line);
        }
    }
    out
}

/// The last `count` lines of a text.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_marker_carries_the_status() {
        assert_eq!(job_status("x\n<<spindle: job ended with status 3>>\r\n"), Some(3));
        assert_eq!(job_status("<<spindle: job ended with status "), None);
        assert_eq!(job_status("<<spindle: job ended with status x>>"), None);
        assert_eq!(job_status("login:"), None);
    }

    #[test]
    fn an_oops_is_seen_and_a_quiet_console_is_not_one() {
        assert_eq!(
            death("a\nKernel panic - not syncing: x\nb"),
            Some("Kernel panic - not syncing: x")
        );
        assert_eq!(death("all is well"), None);
    }

    #[test]
    fn heartbeats_do_not_reach_the_reader() {
        assert_eq!(clean("a\r\n<<spindle: alive>>\r\nb\r\n"), "a\nb\n");
    }

    #[test]
    fn the_tail_is_the_end() {
        assert_eq!(tail("1\n2\n3\n", 2), "2\n3");
        assert_eq!(tail("1", 5), "1");
    }
}
