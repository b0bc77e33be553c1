//! Commands about the image and the session: what is allocated, its size, signals.
use super::disk::Disk;
use super::text::{Report, amount, complain, length, number, refuse, say};
use super::{Failed, options, table};
use crate::tools::img::image::errno_text;
use crate::tools::img::info;
use crate::tools::img::resize::{self, Ahead};
use spindle_block::{Cx, Io, Op, Range};
use std::time::{Duration, Instant};

/// The bytes that `alloc` looks at where it is not told.
const SECTOR: u64 = 512;

/// The highest signal (NSIG of Linux).
const SIGNAL_MAX: u64 = 64;

pub(super) fn raise(args: &[String]) -> Result<(), Failed> {
    let text = &args[0];
    let signal = number(text)?;
    if signal > SIGNAL_MAX + 1 {
        return refuse(&format!("signal argument '{text}' is too large to be a valid signal"));
    }
    // Everything has been flushed already.
    // SAFETY: a plain system call; what the signal does is what was asked for.
    unsafe { libc::raise(i32::try_from(signal).unwrap_or(0)) };
    Ok(())
}

pub(super) async fn sleep(cx: &Cx, args: &[String]) -> Result<(), Failed> {
    let text = &args[0];
    let Ok(ms) = text.parse::<u32>() else {
        return refuse(&format!("{text} is not a valid number"));
    };
    cx.sleep(Duration::from_millis(ms.into())).await;
    Ok(())
}

pub(super) async fn flush(cx: &Cx, disk: &Disk) -> Result<(), Failed> {
    disk.root.handle().io(cx, Io::flush()).await.1.map_err(|_| Failed)
}

pub(super) async fn discard(
    cx: &Cx,
    disk: &Disk,
    command: &'static table::Command,
    args: &[String],
) -> Result<(), Failed> {
    let (found, rest) = options(command, args, "Cq")?;
    let [offset, len] = rest.as_slice() else {
        command.usage();
        return Err(Failed);
    };
    let has = |letter| found.iter().any(|(l, _)| *l == letter);
    let offset = number(offset)?;
    let count = length(len, "")?;
    let began = Instant::now();
    let io = Io::bare(Op::Discard, Range::new(offset, count));
    let result = disk.root.handle().io(cx, io).await.1;
    if let Err(error) = result {
        return refuse(&format!("discard failed: {}", errno_text(error)));
    }
    if !has('q') {
        let took = began.elapsed();
        Report { what: "discard", offset, count, took, terse: has('C') }.print();
    }
    Ok(())
}

/// Whether the image itself has the start of a range, and how much of it is so.
async fn allocated(cx: &Cx, disk: &Disk, range: Range) -> Result<(bool, u64), &'static str> {
    let mut found: Option<bool> = None;
    let mut len = 0;
    while len < range.len {
        let rest = Range::new(range.offset + len, range.len - len);
        let status = disk.image.own_status(cx, rest).await.map_err(errno_text)?;
        if status.len == 0 || found.is_some_and(|found| found != status.present) {
            break;
        }
        found = Some(status.present);
        len += status.len;
    }
    Ok((found.unwrap_or(false), len))
}

pub(super) async fn alloc(cx: &Cx, disk: &Disk, args: &[String]) -> Result<(), Failed> {
    let start = number(&args[0])?;
    let mut count = args.get(1).map_or(Ok(SECTOR), |text| number(text))?;
    let (mut done, mut sum) = (0, 0);
    while done < count {
        let range = Range::new(start.saturating_add(done), count - done);
        match allocated(cx, disk, range).await {
            Err(error) => return refuse(&format!("is_allocated failed: {error}")),
            Ok((_, 0)) => count = done,
            Ok((is, len)) => {
                done += len;
                sum += if is { len } else { 0 };
            }
        }
    }
    say(&format!("{sum}/{count} bytes allocated at offset {}\n", amount(start as f64)));
    Ok(())
}

pub(super) async fn map(cx: &Cx, disk: &Disk) -> Result<(), Failed> {
    let size = disk.image.size();
    let mut at = 0;
    while at < size {
        match allocated(cx, disk, Range::new(at, size - at)).await {
            Err(error) => {
                return complain(&format!("Failed to get allocation status: {error}"));
            }
            Ok((_, 0)) => return complain("Unexpected end of image"),
            Ok((is, len)) => {
                say(&format!(
                    "{} ({len:#x}) bytes {} at offset {} ({at:#x})\n",
                    amount(len as f64),
                    if is { "    allocated" } else { "not allocated" },
                    amount(at as f64),
                ));
                at += len;
            }
        }
    }
    Ok(())
}

pub(super) async fn info(cx: &Cx, disk: &Disk) -> Result<(), Failed> {
    let image = &disk.image;
    let driver = image.node.driver();
    if driver == "null-co" {
        return refuse(&format!("format name: {driver}\nformat name: {driver}"));
    }
    let (cluster, state) = match &image.qcow2 {
        None => (0, 0),
        Some(qcow2) => (qcow2.cluster_size(), qcow2.vm_state_offset()),
    };
    let mut out = format!(
        "format name: {}\ncluster size: {}\nvm state offset: {}\n",
        image.format.name(),
        amount(cluster as f64),
        amount(state as f64)
    );
    if image.qcow2.is_some() {
        let found = spindle_block::qcow2::info::info(cx, &image.file).await;
        let found = found.map_err(|_| Failed)?;
        let report = info::qcow2_report(&image.path, found).map_err(|_| Failed)?;
        out += &report.specific();
    }
    say(&out);
    Ok(())
}

pub(super) async fn truncate(
    cx: &Cx,
    disk: &Disk,
    command: &'static table::Command,
    args: &[String],
) -> Result<(), Failed> {
    let (found, rest) = options(command, args, "m:")?;
    let mut ahead = Ahead::Off;
    for (_, mode) in found {
        ahead = match mode.as_str() {
            "off" => Ahead::Off,
            "falloc" => Ahead::Falloc,
            "full" => Ahead::Full,
            "metadata" => return complain("Unsupported preallocation mode 'metadata'"),
            other => return complain(&format!("Invalid preallocation mode '{other}'")),
        };
    }
    let Some(size) = rest.first() else {
        command.usage();
        return Err(Failed);
    };
    let new = number(size)?;
    if disk.image.qcow2.is_some() && !new.is_multiple_of(SECTOR) {
        return complain("The new size must be a multiple of 512");
    }
    let old = disk.image.size();
    let done = resize::to(cx, &disk.image, old, new, ahead).await;
    disk.root.changed();
    done.or_else(|error| complain(&format!("Failed to resize image: {}", errno_text(error))))
}
