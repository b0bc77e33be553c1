//! `snapshot`: lists, takes, goes back to and deletes the snapshots inside an image.
use super::files::on_block_layer;
use super::image::{Image, OpenMode, cannot_open, errno_text, open_detail, warn_of_probing};
use super::text::human_size;
use super::{ImgError, Look};
use serde::Serialize;
use spindle_block::qcow2::{self, NewSnapshot, Snapshot, SnapshotError};
use spindle_block::{BlockError, Cx, Node};
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest name that qemu-img gives a snapshot, in bytes.
const NAME_MAX: usize = 255;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `-l`.
    List,
    /// `-c`.
    Create(String),
    /// `-a`.
    Apply(String),
    /// `-d`.
    Delete(String),
}

/// A snapshot, as `qemu-img info` shows it (qapi/block-core.json, SnapshotInfo).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotReport {
    /// Its identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Bytes of saved machine state.
    pub vm_state_size: u64,
    /// When it was taken: seconds since 1970.
    pub date_sec: u64,
    /// And nanoseconds.
    pub date_nsec: u32,
    /// The guest's clock then: seconds.
    pub vm_clock_sec: u64,
    /// And nanoseconds.
    pub vm_clock_nsec: u64,
    /// Instructions executed, where they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icount: Option<u64>,
}

const NS_PER_S: u64 = 1_000_000_000;

impl From<Snapshot> for SnapshotReport {
    fn from(one: Snapshot) -> Self {
        Self {
            id: one.id,
            name: one.name,
            vm_state_size: one.vm_state_size,
            date_sec: one.date_s,
            date_nsec: one.date_ns,
            vm_clock_sec: one.vm_clock_ns / NS_PER_S,
            vm_clock_nsec: one.vm_clock_ns % NS_PER_S,
            icount: one.icount,
        }
    }
}

/// The list for people; nothing where there is none (QEMU, bdrv_snapshot_dump).
#[must_use]
pub fn human(list: &[SnapshotReport]) -> String {
    if list.is_empty() {
        return String::new();
    }
    let mut out = String::from("Snapshot list:\n");
    let _ = writeln!(
        out,
        "{:<7} {:<16} {:>8} {:>19} {:>15} {:>10}",
        "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"
    );
    for one in list {
        let s = one.vm_clock_sec;
        let clock = format!(
            "{:04}:{:02}:{:02}.{:03}",
            s / 3600,
            s / 60 % 60,
            s % 60,
            one.vm_clock_nsec / 1_000_000
        );
        let icount = one.icount.map_or(String::new(), |n| n.to_string());
        let _ = writeln!(
            out,
            "{:<7} {:<16} {:>8} {:>19} {clock:>15} {icount:>10}",
            one.id,
            one.name,
            human_size(one.vm_state_size),
            local_time(one.date_sec),
        );
    }
    out
}

/// `2026-01-31 23:59:59`, in the time zone of this process.
fn local_time(seconds: u64) -> String {
    let time = libc::time_t::try_from(seconds).unwrap_or(libc::time_t::MAX);
    // SAFETY: all zeros is a value of this plain structure.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both point to values of ours for the time of the call.
    let known = unsafe { libc::localtime_r(&raw const time, &raw mut parts) };
    if known.is_null() {
        return seconds.to_string();
    }
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        i64::from(parts.tm_year) + 1900,
        parts.tm_mon + 1,
        parts.tm_mday,
        parts.tm_hour,
        parts.tm_min,
        parts.tm_sec
    )
}

/// Does it. Returns what is to be printed.
///
/// # Errors
///
/// An image that cannot be opened, or has no such snapshot, or none at all.
pub fn run(path: PathBuf, look: Look, action: Action) -> Result<String, ImgError> {
    let reads = action == Action::List;
    if look.force_share && !reads {
        let detail = "force-share=on can only be used with read-only images";
        return Err(cannot_open(&path, 0, detail));
    }
    on_block_layer(|cx| async move {
        let mode = OpenMode { writable: !reads, ..OpenMode::read(look.format, look.force_share) };
        let image = Image::open(&cx, &path, mode).await?;
        if !reads {
            warn_of_probing(&image, look.format);
        }
        let result = act(&cx, &image, &action).await;
        let closed = image.close(&cx).await;
        let text = result?;
        closed.map_err(|e| ImgError::said(format!("Could not close image: {}", errno_text(e))))?;
        Ok(text)
    })
}

async fn act(cx: &Cx, image: &Image, action: &Action) -> Result<String, ImgError> {
    match action {
        Action::List => {
            let list = list(cx, image).await.unwrap_or_default();
            let list: Vec<SnapshotReport> = list.into_iter().map(Into::into).collect();
            return Ok(human(&list));
        }
        Action::Create(name) => create(cx, image, name).await?,
        Action::Apply(which) => {
            let failed = |why: &str| {
                Err(ImgError::said(format!("Could not apply snapshot '{which}': {why}")))
            };
            let Some(qcow2) = &image.qcow2 else {
                // qemu-img opens the image anew for this.
                warn_of_probing(image, None);
                return failed("Block driver does not support snapshots");
            };
            if let Err(error) = qcow2.apply_snapshot(cx, which).await {
                return failed(&format!("Failed to load snapshot: {}", errno(error).1));
            }
        }
        Action::Delete(name) => delete(cx, image, name).await?,
    }
    Ok(String::new())
}

async fn list(cx: &Cx, image: &Image) -> Result<Vec<Snapshot>, BlockError> {
    match &image.qcow2 {
        Some(qcow2) => qcow2.snapshots(cx).await,
        None => Ok(Vec::new()),
    }
}

async fn create(cx: &Cx, image: &Image, name: &str) -> Result<(), ImgError> {
    let failed = |(_, text): (i32, &str)| {
        ImgError::said(format!("Could not create snapshot '{name}': {text}"))
    };
    let Some(qcow2) = &image.qcow2 else {
        return Err(failed(errno(BlockError::Unsupported.into())));
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut end = name.len().min(NAME_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let new = NewSnapshot {
        name: name[..end].to_owned(),
        date_s: now.as_secs(),
        // qemu-img knows microseconds.
        date_ns: now.subsec_micros() * 1000,
        icount: Some(0),
        ..NewSnapshot::default()
    };
    qcow2.create_snapshot(cx, new).await.map(drop).map_err(|e| failed(errno(e)))
}

async fn delete(cx: &Cx, image: &Image, name: &str) -> Result<(), ImgError> {
    let failed = |why: &str| ImgError::said(format!("Could not delete snapshot '{name}': {why}"));
    let list = list(cx, image).await.map_err(|e| failed(errno_text(e)))?;
    // By its name alone, as with qemu-img.
    let found = list.iter().find(|one| one.name == name);
    let (Some(one), Some(qcow2)) = (found, &image.qcow2) else {
        return Err(failed("snapshot not found"));
    };
    qcow2.delete_snapshot(cx, &one.id).await.map_err(|e| failed(errno(e).1))
}

/// The error number that QEMU has for it, and its text.
fn errno(error: SnapshotError) -> (i32, &'static str) {
    match error {
        SnapshotError::Missing => (libc::ENOENT, "No such file or directory"),
        SnapshotError::TooMany => (libc::EFBIG, "File too large"),
        SnapshotError::RefcountWidth => (libc::EINVAL, "Invalid argument"),
        SnapshotError::Io(error) => (number(error), errno_text(error)),
    }
}

/// errno(3) of what went wrong, as [`errno_text`] names it.
fn number(error: BlockError) -> i32 {
    match error {
        BlockError::OutOfRange | BlockError::Medium | BlockError::Corrupt => libc::EIO,
        BlockError::Misaligned => libc::EINVAL,
        BlockError::ReadOnly => libc::EPERM,
        BlockError::NoSpace => libc::ENOSPC,
        BlockError::Unsupported => libc::EOPNOTSUPP,
        BlockError::Aborted => libc::ECANCELED,
        BlockError::TimedOut => libc::ETIMEDOUT,
        BlockError::NoMemory => libc::ENOMEM,
        BlockError::Permission => libc::EACCES,
        BlockError::Gone => libc::ENODEV,
    }
}

/// Which snapshot `convert -l` and `dd -l` read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    id: Option<String>,
    name: Option<String>,
    /// An identifier, or else a name.
    either: Option<String>,
}

impl Which {
    /// `snapshot.id=…`, `snapshot.name=…`, both, or just an identifier or name.
    ///
    /// # Errors
    ///
    /// qemu-img's sentences about options that there are not.
    pub fn parse(text: &str) -> Result<Self, ImgError> {
        if !text.starts_with("snapshot.") {
            return Ok(Self { either: Some(text.to_owned()), ..Self::default() });
        }
        let mut which = Self::default();
        for part in text.split(',') {
            let (key, value) = part.split_once('=').unwrap_or((part, "on"));
            match key {
                "snapshot.id" => which.id = Some(value.to_owned()),
                "snapshot.name" => which.name = Some(value.to_owned()),
                _ => {
                    let prefix = super::error::prefix();
                    return Err(ImgError::said(format!(
                        "Invalid parameter '{key}'\n{prefix}: Failed in parsing snapshot param \
                         '{text}'"
                    )));
                }
            }
        }
        Ok(which)
    }

    fn find<'a>(&self, list: &'a [Snapshot]) -> Option<&'a Snapshot> {
        if let Some(either) = &self.either {
            let by_id = list.iter().find(|one| one.id == *either);
            return by_id.or_else(|| list.iter().find(|one| one.name == *either));
        }
        let fits = |wanted: &Option<String>, has: &str| wanted.as_deref().is_none_or(|w| w == has);
        list.iter().find(|one| fits(&self.id, &one.id) && fits(&self.name, &one.name))
    }
}

impl Image {
    /// The image as one of its snapshots holds it. It was opened for reading.
    ///
    /// # Errors
    ///
    /// qemu-img's sentence about an image that has no such snapshot.
    pub async fn at_snapshot(mut self, cx: &Cx, which: &Which) -> Result<Self, ImgError> {
        let result = self.turn_to_snapshot(cx, which).await;
        if let Err(error) = result {
            // It was only read.
            let _ = self.close(cx).await;
            return Err(error);
        }
        Ok(self)
    }

    async fn turn_to_snapshot(&mut self, cx: &Cx, which: &Which) -> Result<(), ImgError> {
        let Some(image) = &self.qcow2 else {
            return Err(ImgError::said(format!(
                "Failed to load snapshot: Block format '{}' used by device '' does not support \
                 temporarily loading internal snapshots",
                self.format.name()
            )));
        };
        let list = image.snapshots(cx).await.unwrap_or_default();
        let Some(one) = which.find(&list) else {
            return Err(ImgError::said("Failed to load snapshot: Can't find snapshot"));
        };
        let backing = self.backing.as_ref().map(|below| Arc::clone(&below.node));
        let file: Arc<dyn Node> = Arc::clone(&self.file) as _;
        let secret = self.secret.clone();
        let options = qcow2::Options { read_only: true, secret, ..qcow2::Options::default() };
        let disk = qcow2::open_snapshot(cx, file, backing, options, one).await;
        let disk = disk
            .map_err(|e| ImgError::said(format!("Failed to load snapshot: {}", open_detail(&e))))?;
        self.node = Arc::clone(&disk) as _;
        self.qcow2 = Some(disk);
        Ok(())
    }
}

/// The snapshots of an image that is looked at.
pub(super) fn reports(list: Vec<Snapshot>) -> Vec<SnapshotReport> {
    list.into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_qemus_columns() {
        let one = SnapshotReport {
            id: "1".to_owned(),
            name: "a".to_owned(),
            vm_state_size: 350_000,
            date_sec: 0,
            date_nsec: 0,
            vm_clock_sec: 3725,
            vm_clock_nsec: 42_000_000,
            icount: None,
        };
        let text = human(&[one]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1],
            "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT"
        );
        assert!(lines[2].starts_with("1       a                 342 KiB "), "{text}");
        assert!(lines[2].ends_with(" 0001:02:05.042           "), "{text}");
        assert_eq!(human(&[]), "");
    }

    #[test]
    fn snapshots_are_chosen_as_with_qemu_img() {
        let one = |id: &str, name: &str| {
            let mut snapshot = Snapshot::default();
            (snapshot.id, snapshot.name) = (id.to_owned(), name.to_owned());
            snapshot
        };
        let list = [one("1", "2"), one("2", "b")];
        let id = |text: &str| Which::parse(text).unwrap().find(&list).map(|s| s.id.clone());
        assert_eq!(id("2").as_deref(), Some("2"));
        assert_eq!(id("b").as_deref(), Some("2"));
        assert_eq!(id("snapshot.name=2").as_deref(), Some("1"));
        assert_eq!(id("snapshot.id=2,snapshot.name=b").as_deref(), Some("2"));
        assert_eq!(id("snapshot.id=1,snapshot.name=b"), None);
        let error = Which::parse("snapshot.foo=1").unwrap_err().to_string();
        assert!(error.starts_with("Invalid parameter 'snapshot.foo'\n"), "{error}");
    }

    #[test]
    fn a_missing_file_is_no_snapshot() {
        let look = Look::default();
        let error = run(PathBuf::from("/nonexistent/x"), look, Action::List).unwrap_err();
        assert!(error.to_string().contains("No such file or directory"));
    }
}
