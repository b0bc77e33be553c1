//! The kernel's own NBD client, as `qemu-nbd -c` feeds it.

use std::path::Path;
use std::time::{Duration, Instant};

use spindle_tests::lab::guest::{GuestError, Vmm};

use crate::cases::{Case, Context, Outcome, check_qcow2, require, text, tool};

/// Of the group `control`.
pub const KERNEL: Case = Case { name: "the-kernel-gets-a-disk-over-nbd", run: kernel };

const DEVICE: &str = "/dev/nbd0";

fn is_connected() -> bool {
    Path::new("/sys/block/nbd0/pid").exists()
}

fn wait_until(connected: bool) -> Outcome {
    let began = Instant::now();
    while is_connected() != connected {
        require(began.elapsed() < Duration::from_secs(30), || {
            format!("{DEVICE} is not as wanted: connected {connected}")
        })?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// A qcow2 image as a block device of the host: its size, data through the page cache and past it, a
/// discard that shrinks the file, a second image read-only; after `-d` the image is closed and sound.
fn kernel(context: &Context) -> Outcome {
    let Vmm::Spindle(spindle) = &context.vmm else {
        return Err(GuestError::Failed("this case is about spindle".to_owned()));
    };
    let spindle = text(spindle);
    if !Path::new(DEVICE).exists() {
        tool("modprobe", &["nbd"])?;
    }
    let image = context.work.join("disk.qcow2");
    let at = |name: &str| text(&context.work.join(name));
    tool(&spindle, &["img", "create", "-q", "-f", "qcow2", &text(&image), "64M"])?;
    tool(&spindle, &["nbd", "-c", DEVICE, "-f", "qcow2", "--discard=unmap", &text(&image)])?;
    wait_until(true)?;
    let size = tool("blockdev", &["--getsize64", DEVICE])?;
    require(size.trim() == "67108864", || format!("the device has {size} bytes"))?;
    tool("dd", &["if=/dev/urandom", &format!("of={}", at("data")), "bs=1M", "count=24"])?;
    let from = format!("if={}", at("data"));
    tool("dd", &[&from, &format!("of={DEVICE}"), "bs=256k", "oflag=direct"])?;
    tool("dd", &[&from, &format!("of={DEVICE}"), "bs=64k", "seek=512", "conv=fsync"])?;
    tool("blockdev", &["--flushbufs", DEVICE])?;
    let back = at("back");
    tool(
        "dd",
        &[&format!("if={DEVICE}"), &format!("of={back}"), "bs=1M", "count=24", "iflag=direct"],
    )?;
    tool("cmp", &[&at("data"), &back])?;
    tool("blkdiscard", &["-o", "0", "-l", "16777216", DEVICE])?;
    let said = tool(&spindle, &["nbd", "-d", DEVICE])?;
    require(said.trim() == format!("{DEVICE} disconnected"), || said.clone())?;
    wait_until(false)?;
    // The server closes the image and ends; a check needs its lock.
    let began = Instant::now();
    while check_qcow2(&image).is_err() && began.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(200));
    }
    check_qcow2(&image)?;
    let raw = at("raw");
    tool("qemu-img", &["convert", "-O", "raw", &text(&image), &raw])?;
    tool("cmp", &["-n", "25165824", &raw, &at("data"), "33554432", "0"])?;
    let map = tool("qemu-img", &["map", "--output=json", &text(&image)])?;
    let first = map.lines().next().unwrap_or_default();
    require(first.contains("\"length\": 16777216") && first.contains("\"data\": false"), || {
        format!("what was discarded is in the file still: {first}")
    })?;

    tool(&spindle, &["nbd", "-r", "-c", DEVICE, "-f", "raw", &raw])?;
    wait_until(true)?;
    let read_only = tool("blockdev", &["--getro", DEVICE])?;
    tool("cmp", &[&raw, DEVICE])?;
    tool(&spindle, &["nbd", "-d", DEVICE])?;
    wait_until(false)?;
    require(read_only.trim() == "1", || "the device can be written to".to_owned())
}
