//! Disks: verified data on raw and qcow2, queues and iothreads, discard, resize, errors, a full disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use spindle_tests::lab::guest::{Disk, Guest, Running, Vmm};
use spindle_tests::lab::job::Job;
use spindle_tests::lab::qmp::Qmp;
use spindle_tests::lab::{LabError, image::Image};

use crate::cases::{Case, Context, Outcome, check_qcow2, require, text, tool};

/// Cases of the group `disk`.
pub const CASES: &[Case] = &[
    Case { name: "verify-raw-and-qcow2", run: verify },
    Case { name: "four-queues-on-two-iothreads", run: queues },
    Case { name: "debian-on-a-backing-file", run: debian },
];

/// Cases of the group `control`.
pub const CONTROL: &[Case] = &[
    Case { name: "discard-shrinks-the-file", run: discard },
    Case { name: "resize-is-seen", run: resize },
    Case { name: "injected-error-is-seen", run: injected_error },
    Case { name: "full-disk-pauses-and-continues", run: full_disk },
    Case { name: "nodes-come-and-go", run: nodes },
    crate::nbd::KERNEL,
];

/// What fio writes at random and reads back, in the guest and again on the host.
pub fn fio_verify(name: &str, file: &str) -> String {
    fio_verify_of("16m", name, file)
}

/// The same over the first `size` of the file.
pub fn fio_verify_of(size: &str, name: &str, file: &str) -> String {
    format!(
        "fio --name={name} --filename={file} --rw=randwrite --bsrange=4k-64k --bs_unaligned=0 \
         --blockalign=4k --size={size} --direct=1 --iodepth=16 --randseed=7 --allrandrepeat=1 \
         --verify=crc32c --verify_fatal=1 --do_verify=1 --group_reporting --output-format=terse"
    )
}

/// fio alone can say whether a raw file holds what the guest's fio wrote.
fn verify_on_host(name: &str, path: &Path) -> Outcome {
    let command = fio_verify(name, &text(path)).replace("--do_verify=1", "--verify_only=1");
    let command = command.replace("--direct=1", "--direct=0 --ioengine=psync");
    tool("sh", &["-c", &command]).map(drop)
}

/// Raw and qcow2 images in every cache and aio mode: the data comes back in the guest, and the files hold
/// it when the machine is gone.
fn verify(context: &Context) -> Outcome {
    let raw = context.raw("a.raw", 64)?;
    let qcow2 = context.qcow2("b.qcow2", 64)?;
    let through = context.qcow2("c.qcow2", 64)?;
    let threads = context.raw("d.raw", 64)?;
    let script = ["a", "b", "c", "d"]
        .map(|name| {
            fio_verify(name, &format!("/dev/vd{name}")) + " --ioengine=io_uring || exit 1\n"
        })
        .concat();
    let qemu = context.vmm == Vmm::Qemu;
    let aio = |mode: &str| if qemu { String::new() } else { format!(",aio={mode}") };
    let guest = Guest::initramfs(context.vmm.clone(), Job::new(script))?
        .cpus(2)
        .disk(Disk::new(&raw, "raw").with(&format!("cache=none{}", aio("io_uring"))))
        .disk(Disk::new(&qcow2, "qcow2").with(&format!("cache=none{}", aio("io_uring"))))
        .disk(Disk::new(&through, "qcow2").with("cache=writethrough"))
        .disk(Disk::new(&threads, "raw").with(&format!("cache=writeback{}", aio("threads"))));
    context.succeed(&guest)?;

    verify_on_host("a", &raw)?;
    verify_on_host("d", &threads)?;
    for (name, image) in [("b", &qcow2), ("c", &through)] {
        check_qcow2(image)?;
        let flat = context.work.join("flat.raw");
        tool("qemu-img", &["convert", "-O", "raw", &text(image), &text(&flat)])?;
        verify_on_host(name, &flat)?;
    }
    Ok(())
}

/// One qcow2 image, four queues on two iothreads, four writers.
fn queues(context: &Context) -> Outcome {
    let image = context.qcow2("q.qcow2", 128)?;
    let script = r#"
        [ "$(ls /sys/block/vda/mq | wc -l)" = 4 ] || exit 3
        fio --name=q --filename=/dev/vda --rw=randwrite --bs=4k --size=8m --numjobs=4 \
            --offset_increment=16m --direct=1 --iodepth=8 --ioengine=io_uring \
            --verify=crc32c --verify_fatal=1 --group_reporting --output-format=terse
    "#;
    let blockdev = json!({
        "driver": "qcow2", "node-name": "q",
        "file": { "driver": "file", "filename": text(&image) },
    });
    let device = json!({
        "driver": "virtio-blk-pci", "drive": "q", "num-queues": 4,
        "iothread-vq-mapping": [{ "iothread": "io0" }, { "iothread": "io1" }],
    });
    let guest = Guest::initramfs(context.vmm.clone(), Job::new(script))?.cpus(4).with(&[
        "-object",
        "iothread,id=io0",
        "-object",
        "iothread,id=io1",
        "-blockdev",
        &blockdev.to_string(),
        "-device",
        &device.to_string(),
    ]);
    context.succeed(&guest)?;
    check_qcow2(&image)
}

/// A real Debian whose root is an overlay on a backing file boots to its login, verifies data on its root
/// and powers off; image and file system are clean.
fn debian(context: &Context) -> Outcome {
    let base = context.copy(&Image::build("debian")?.file("debian.qcow2"), "base.qcow2")?;
    let overlay = context.work.join("overlay.qcow2");
    let create =
        ["create", "-q", "-f", "qcow2", "-b", &text(&base), "-F", "qcow2", &text(&overlay)];
    tool("qemu-img", &create)?;
    let before = fs::metadata(&base).map_err(LabError::file("look at", &base))?;
    let script = fio_verify("root", "/root/data")
        + " --ioengine=psync || exit 1\n\
           until grep -qs getty /proc/[0-9]*/comm; do sleep 1; done\n\
           sleep 1\n";
    let guest =
        Guest::debian(context.vmm.clone(), Disk::new(&overlay, "qcow2"), Job::new(script))?.cpus(2);
    let ended = context.succeed(&guest)?;
    require(ended.console.contains("login:"), || "no login prompt on the console".to_owned())?;

    let after = fs::metadata(&base).map_err(LabError::file("look at", &base))?;
    require(before.mtime_nsec() == after.mtime_nsec() && before.mtime() == after.mtime(), || {
        "the backing file was written to".to_owned()
    })?;
    check_qcow2(&overlay)?;
    let flat = context.work.join("flat.raw");
    tool("qemu-img", &["convert", "-O", "raw", &text(&overlay), &text(&flat)])?;
    tool("/sbin/e2fsck", &["-fn", &format!("{}?offset=1048576", text(&flat))]).map(drop)
}

/// Bytes that a file takes on its file system.
pub fn allocated(path: &Path) -> Result<u64, LabError> {
    let data = fs::metadata(path).map_err(LabError::file("look at", path))?;
    Ok(data.blocks() * 512)
}

/// Discards give the host its space back, on raw and on qcow2.
fn discard(context: &Context) -> Outcome {
    let images = [context.raw("a.raw", 64)?, context.qcow2("b.qcow2", 64)?];
    let script = r#"
        for disk in vda vdb; do
            fio --name=fill --filename=/dev/$disk --rw=write --bs=1m --size=32m --direct=1 \
                --ioengine=psync --output-format=terse || exit 1
        done
        echo "<<filled>>"
        sleep 3
        for disk in vda vdb; do blkdiscard /dev/$disk || exit 2; done
    "#;
    let guest = Guest::initramfs(context.vmm.clone(), Job::new(script))?
        .disk(Disk::new(&images[0], "raw").with("discard=unmap"))
        .disk(Disk::new(&images[1], "qcow2").with("discard=unmap"));
    let mut running = context.start(&guest)?;
    running.wait_for("<<filled>>")?;
    for image in &images {
        let size = allocated(image)?;
        require(size >= 32 << 20, || format!("{} holds only {size} bytes", image.display()))?;
    }
    running.finish()?.success()?;
    for image in &images {
        let size = allocated(image)?;
        require(size <= 4 << 20, || format!("{} still holds {size} bytes", image.display()))?;
    }
    check_qcow2(&images[1])
}

/// Starts a guest with a monitor.
pub fn with_monitor(
    context: &Context,
    guest: Guest,
) -> Result<(Running, Qmp), crate::cases::Error> {
    let socket = context.work.join("qmp");
    let wait = if context.vmm == Vmm::Qemu { ",wait=off" } else { "" };
    let guest = guest.with(&["-qmp", &format!("unix:{},server=on{wait}", text(&socket))]);
    let running = context.start(&guest)?;
    let qmp = Qmp::connect(&socket)?;
    Ok((running, qmp))
}

/// The guest sees a disk grow while it runs, raw and qcow2.
fn resize(context: &Context) -> Outcome {
    let (raw, qcow2) = (context.raw("a.raw", 16)?, context.qcow2("b.qcow2", 16)?);
    let script = r#"
        echo "<<ready>>"
        for disk in vda vdb; do
            tries=0
            until [ "$(blockdev --getsize64 /dev/$disk)" = 50331648 ]; do
                tries=$((tries + 1))
                [ $tries -lt 40 ] || exit 1
                sleep 0.5
            done
            # Its new end can be written and read.
            echo the end | dd of=/dev/$disk bs=512 seek=98303 conv=sync,fsync 2>/dev/null || exit 2
            dd if=/dev/$disk bs=512 skip=98303 iflag=direct 2>/dev/null | grep -q 'the end' || exit 3
        done
    "#;
    let drive = |node: &str, path: &Path, format: &str| {
        let file = json!({ "driver": "file", "filename": text(path) });
        json!({ "driver": format, "node-name": node, "file": file }).to_string()
    };
    let guest = Guest::initramfs(context.vmm.clone(), Job::new(script))?.with(&[
        "-blockdev",
        &drive("a", &raw, "raw"),
        "-blockdev",
        &drive("b", &qcow2, "qcow2"),
        "-device",
        "virtio-blk-pci,drive=a",
        "-device",
        "virtio-blk-pci,drive=b",
    ]);
    let (mut running, mut qmp) = with_monitor(context, guest)?;
    running.wait_for("<<ready>>")?;
    for node in ["a", "b"] {
        qmp.execute("block_resize", json!({ "node-name": node, "size": 48 << 20 }))?;
    }
    running.finish()?.success()?;
    check_qcow2(&qcow2)
}

/// A fault that the monitor injects is an I/O error in the guest, and gone when it is taken back.
fn injected_error(context: &Context) -> Outcome {
    let raw = context.raw("a.raw", 16)?;
    let script = r#"
        try() { dd if=/dev/vda of=/dev/null bs=4k skip=$1 count=1 iflag=direct 2>&1; }
        wait_until() {
            tries=0
            until [ "$(try 256 | grep -c 'Input/output error\|I/O error')" = $1 ]; do
                tries=$((tries + 1))
                [ $tries -lt 100 ] || exit $2
                sleep 0.2
            done
        }
        try 256 || exit 1
        echo "<<ready>>"
        wait_until 1 2
        try 255 | grep -q error && exit 3
        try 257 | grep -q error && exit 4
        echo "<<failed as asked>>"
        wait_until 0 5
    "#;
    let node = json!({
        "driver": "fault", "node-name": "fault0",
        "file": { "driver": "file", "filename": text(&raw) },
    });
    let top = json!({ "driver": "raw", "node-name": "a", "file": "fault0" });
    let guest = Guest::initramfs(context.vmm.clone(), Job::new(script))?.with(&[
        "-blockdev",
        &node.to_string(),
        "-blockdev",
        &top.to_string(),
        "-device",
        "virtio-blk-pci,drive=a",
    ]);
    let (mut running, mut qmp) = with_monitor(context, guest)?;
    running.wait_for("<<ready>>")?;
    let rule = json!({
        "node-name": "fault0", "id": "rule", "op": "read", "offset": 1_048_576, "length": 4096,
        "action": "error", "errno": "EIO",
    });
    qmp.execute("x-fault-add", rule)?;
    running.wait_for("<<failed as asked>>")?;
    qmp.execute("x-fault-del", json!({ "node-name": "fault0", "id": "rule" }))?;
    running.finish()?.success().map(drop)
}

/// Mounts a small tmpfs and unmounts it when dropped.
struct SmallDisk(String);

impl SmallDisk {
    fn mount(path: &Path, size: &str) -> Result<Self, crate::cases::Error> {
        fs::create_dir_all(path).map_err(LabError::file("create", path))?;
        let path = text(path);
        tool("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", &path])?;
        Ok(Self(path))
    }

    fn grow(&self, size: &str) -> Outcome {
        tool("mount", &["-o", &format!("remount,size={size}"), &self.0]).map(drop)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = tool("umount", &["-l", &self.0]);
    }
}

/// A full disk under a growing image stops the machine; with room made, `cont` goes on where it was and
/// nothing is lost.
fn full_disk(context: &Context) -> Outcome {
    let disk = SmallDisk::mount(&context.work.join("small"), "24m")?;
    let image = context.work.join("small/a.qcow2");
    tool("qemu-img", &["create", "-q", "-f", "qcow2", &text(&image), "64M"])?;
    let script = format!("{} --ioengine=io_uring", fio_verify_of("32m", "full", "/dev/vda"));
    let blockdev = json!({
        "driver": "qcow2", "node-name": "a",
        "file": { "driver": "file", "filename": text(&image) },
    });
    let mut guest = Guest::initramfs(context.vmm.clone(), Job::new(script))?.with(&[
        "-blockdev",
        &blockdev.to_string(),
        "-device",
        "virtio-blk-pci,drive=a,werror=enospc",
    ]);
    guest.silence = Duration::from_secs(30);
    let (running, mut qmp) = with_monitor(context, guest)?;
    let error = qmp.wait_event("BLOCK_IO_ERROR")?;
    require(error["action"] == "stop", || format!("the event says {error}"))?;
    qmp.wait_event("STOP")?;
    let status = qmp.execute("query-status", json!({}))?;
    require(status["status"] == "io-error", || format!("query-status says {status}"))?;
    disk.grow("128m")?;
    qmp.execute("cont", json!({}))?;
    qmp.wait_event("RESUME")?;
    running.finish()?.success()?;
    check_qcow2(&image)
}

/// Nodes are opened and closed under a running guest: their files are locked in between, and what a disk
/// uses stays.
fn nodes(context: &Context) -> Outcome {
    let (disk, spare) = (context.qcow2("a.qcow2", 64)?, context.qcow2("b.qcow2", 16)?);
    // The disk grows when the guest may end.
    let script = format!(
        "size=$(cat /sys/block/vda/size)\necho '<<ready>>'\n{} --ioengine=io_uring || exit 1\n\
         while [ $(cat /sys/block/vda/size) = $size ]; do sleep 0.2; done\n",
        fio_verify("a", "/dev/vda")
    );
    let node = |name: &str, path: &Path| {
        let file = json!({ "driver": "file", "filename": text(path) });
        json!({ "driver": "qcow2", "node-name": name, "file": file })
    };
    let guest = Guest::initramfs(context.vmm.clone(), Job::new(script))?.with(&[
        "-blockdev",
        &node("a", &disk).to_string(),
        "-device",
        "virtio-blk-pci,drive=a",
    ]);
    let (mut running, mut qmp) = with_monitor(context, guest)?;
    running.wait_for("<<ready>>")?;
    let is_locked = || tool("qemu-img", &["info", &text(&spare)]).is_err();
    for round in 0..8 {
        qmp.execute("blockdev-add", node("b", &spare))?;
        require(is_locked(), || format!("round {round}: the file of an open node is not locked"))?;
        let again = qmp.execute("blockdev-add", node("b", &spare));
        require(again.is_err(), || "a node name was given twice".to_owned())?;
        qmp.execute("blockdev-del", json!({ "node-name": "b" }))?;
        require(!is_locked(), || format!("round {round}: a closed node's file is still locked"))?;
    }
    let used = qmp.execute("blockdev-del", json!({ "node-name": "a" }));
    require(used.is_err(), || "the guest's disk was taken away".to_owned())?;
    qmp.execute("block_resize", json!({ "node-name": "a", "size": 128 << 20 }))?;
    running.finish()?.success()?;
    check_qcow2(&disk)?;
    check_qcow2(&spare)
}
