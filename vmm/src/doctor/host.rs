//! Memory, limits and programs of the host.
use super::{Check, Status};
use crate::spec::size;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Open files a machine with many disks may want.
const OPEN_FILES_MIN: u64 = 4096;

/// Programs, the Debian packages they are in, and what uses them.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86", "the lab"),
    ("qemu-img", "qemu-utils", "tests"),
    ("busybox", "busybox-static", "guest images"),
    ("cpio", "cpio", "guest images"),
    ("fio", "fio", "tests"),
    ("valgrind", "valgrind", "tests"),
    ("zstd", "zstd", "guest images"),
    ("strip", "binutils", "guest images"),
    ("depmod", "kmod", "guest images"),
    ("fakeroot", "fakeroot", "guest images"),
    ("dpkg-source", "dpkg-dev", "guest images"),
    ("mmdebstrap", "mmdebstrap", "the Debian image"),
    ("sfdisk", "fdisk", "the Debian image"),
    ("mkfs.ext4", "e2fsprogs", "the Debian image"),
];

/// The number in a file of /proc or /sys.
pub(super) fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A line of /proc/meminfo: bytes, or a count.
fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let mut words = line.split_whitespace();
    let value: u64 = words.next()?.parse().ok()?;
    match words.next() {
        Some("kB") => value.checked_mul(1024),
        _ => Some(value),
    }
}

/// The check `huge pages`.
pub(super) fn huge_pages() -> Check {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let thp = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    huge_pages_of(&text, thp.unwrap_or_default().trim())
}

fn huge_pages_of(meminfo_text: &str, thp: &str) -> Check {
    let get = |name| meminfo(meminfo_text, name).unwrap_or_default();
    let (total, free) = (get("HugePages_Total"), get("HugePages_Free"));
    let page = get("Hugepagesize");
    let transparent =
        thp.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("never", |(w, _)| w);
    let reserved = format!("{free} of {total} reserved pages of {} free", size::format(page));
    let check = if transparent == "never" && free == 0 {
        let found = format!("transparent huge pages are off, {reserved}");
        Check::new("huge pages", Status::Warning, found).advise(
            "guests run slower on small pages: echo madvise | sudo tee \
             /sys/kernel/mm/transparent_hugepage/enabled",
        )
    } else {
        let found = format!("transparent huge pages: {transparent}; {reserved}");
        Check::new("huge pages", Status::Ok, found)
    };
    check
        .fact("transparent", transparent)
        .fact("page-size", page)
        .fact("total", total)
        .fact("free", free)
}

/// Soft and hard limit of a resource; `None`: no limit.
fn limit(resource: libc::__rlimit_resource_t) -> Option<[Option<u64>; 2]> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for the call to fill in.
    let result = unsafe { libc::getrlimit(resource, &raw mut limit) };
    let finite = |n: libc::rlim_t| (n != libc::RLIM_INFINITY).then_some(n);
    (result == 0).then(|| [finite(limit.rlim_cur), finite(limit.rlim_max)])
}

/// The check `memlock`.
pub(super) fn memlock() -> Check {
    let Some([soft, _]) = limit(libc::RLIMIT_MEMLOCK) else {
        return Check::new("memlock", Status::Warning, "the limit cannot be read");
    };
    let found = match soft {
        None => "no limit on locked memory".to_owned(),
        Some(bytes) => {
            format!("{} may be locked; only pinned guest memory needs more", size::format(bytes))
        }
    };
    Check::new("memlock", Status::Ok, found).fact("limit", soft)
}

/// The check `open files`.
pub(super) fn open_files() -> Check {
    let Some([soft, hard]) = limit(libc::RLIMIT_NOFILE) else {
        return Check::new("open files", Status::Warning, "the limit cannot be read");
    };
    let text = |n: Option<u64>| n.map_or("any number".to_owned(), |n| n.to_string());
    let found = format!("{} files may be open, {} if asked for", text(soft), text(hard));
    let check = if hard.is_some_and(|n| n < OPEN_FILES_MIN) {
        Check::new("open files", Status::Warning, found)
            .advise(format!("raise the limit for many disks: ulimit -Hn {OPEN_FILES_MIN}"))
    } else {
        Check::new("open files", Status::Ok, found)
    };
    check.fact("soft", soft).fact("hard", hard)
}

/// The check `packages`: programs that `make demo` and `make test` use; machines need none.
pub(super) fn packages() -> Check {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where Debian has programs for root, which PATH often leaves out.
    let dirs: Vec<PathBuf> =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    packages_in(&|program| dirs.iter().any(|dir| is_program(&dir.join(program))))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn packages_in(has: &dyn Fn(&str) -> bool) -> Check {
    let facts: Map<String, Value> = PROGRAMS
        .iter()
        .map(|(program, ..)| ((*program).to_owned(), Value::Bool(has(program))))
        .collect();
    let missing: Vec<_> = PROGRAMS.iter().filter(|(program, ..)| !has(program)).collect();
    let mut check = if missing.is_empty() {
        Check::new("packages", Status::Ok, "everything that make demo and make test use is there")
    } else {
        let names: Vec<String> =
            missing.iter().map(|(program, _, user)| format!("{program} ({user})")).collect();
        let packages: Vec<&str> = missing.iter().map(|(_, package, _)| *package).collect();
        Check::new("packages", Status::Warning, format!("not there: {}", names.join(", ")))
            .advise(format!("for make demo and make test: apt-get install {}", packages.join(" ")))
    };
    check.facts = facts;
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal: 10 kB\nHugePages_Total:       4\nHugePages_Free:        3\n\
                           Hugepagesize:       2048 kB\n";

    #[test]
    fn meminfo_lines_are_read_by_their_whole_name() {
        assert_eq!(meminfo(MEMINFO, "Hugepagesize"), Some(2 << 20));
        assert_eq!(meminfo(MEMINFO, "HugePages_Free"), Some(3));
        assert_eq!(meminfo(MEMINFO, "HugePages"), None);
    }

    #[test]
    fn huge_pages_are_missed_only_where_there_are_none_at_all() {
        assert_eq!(huge_pages_of(MEMINFO, "always madvise [never]").status, Status::Ok);
        assert_eq!(huge_pages_of("", "always [madvise] never").status, Status::Ok);
        let none = huge_pages_of("", "always madvise [never]");
        assert_eq!(none.status, Status::Warning);
        assert!(none.advice.unwrap().contains("madvise"));
    }

    #[test]
    fn missing_programs_become_one_command() {
        assert_eq!(packages_in(&|_| true).status, Status::Ok);
        let check = packages_in(&|program| program != "fio" && program != "qemu-img");
        assert!(check.advice.unwrap().ends_with("apt-get install qemu-utils fio"));
        assert_eq!(check.facts["fio"], false);
    }

    #[test]
    fn limits_can_be_read() {
        assert!(limit(libc::RLIMIT_NOFILE).unwrap()[0].is_none_or(|n| n > 0));
        assert_eq!(memlock().status, Status::Ok);
    }
}
