//! NVMe and virtio-scsi with Linux's drivers: roots, queues on iothreads, the tools of both worlds, and
//! devices that come and go.

use std::path::Path;

use serde_json::{Value, json};
use spindle_tests::lab::guest::{Disk, Guest};
use spindle_tests::lab::image::Image;
use spindle_tests::lab::job::Job;
use spindle_tests::lab::qmp::Qmp;

use crate::ata::AHCI_MODULES;
use crate::cases::{Case, Context, Error, Outcome, check_qcow2, require, text};
use crate::disk::{allocated, fio_verify, fio_verify_of, with_monitor};

/// Cases of the group `nvme`.
pub const NVME: &[Case] = &[
    Case { name: "root-on-nvme", run: nvme_root },
    Case { name: "nvme-four-queues-on-two-iothreads", run: nvme_queues },
    Case { name: "nvme-identifiers-are-believed", run: nvme_identifiers },
    Case { name: "nvme-cli-looks-and-works", run: nvme_cli },
    Case { name: "nvme-format-changes-the-block-size", run: nvme_format },
    Case { name: "nvme-discard-shrinks-the-file", run: nvme_discard },
    Case { name: "nvme-resets-under-load", run: nvme_reset },
    Case { name: "nvme-unbound-under-load", run: nvme_unbind },
];

/// Cases of the group `scsi`.
pub const SCSI: &[Case] = &[
    Case { name: "root-on-virtio-scsi", run: scsi_root },
    Case { name: "scsi-four-queues-on-two-iothreads", run: scsi_queues },
    Case { name: "sg3-utils-look-and-work", run: sg3_utils },
    Case { name: "scsi-discard-and-write-same-shrink-the-file", run: scsi_discard },
    Case { name: "reservations-are-seen-by-both-paths", run: scsi_reservations },
    Case { name: "scsi-resets-under-load", run: scsi_reset },
    Case { name: "scsi-unbound-under-load", run: scsi_unbind },
    Case { name: "a-medium-is-changed", run: scsi_medium },
];

/// Cases of the group `hot-plug`.
pub const HOT_PLUG: &[Case] = &[
    Case { name: "disks-come-and-go-under-load", run: plug_functions },
    Case { name: "namespaces-and-units-come-and-go-under-load", run: plug_disks },
];

pub const NVME_MODULES: &str = "spindle.modules=nvme";
pub const SCSI_MODULES: &str = "spindle.modules=virtio_pci,virtio_scsi,sd_mod,sg,sr_mod,isofs";

/// The test guest in its initramfs, with these drivers.
pub fn guest(context: &Context, modules: &str, script: impl Into<String>) -> Result<Guest, Error> {
    let mut guest = Guest::initramfs(context.vmm.clone(), Job::new(script))?;
    guest.append = modules.to_owned();
    Ok(guest)
}

/// What puts a disk behind `controller`, with two queues where there are any.
fn behind(controller: &str) -> String {
    let queues = if ["ahci", "ide"].contains(&controller) { "" } else { ",queues=2" };
    format!("controller={controller}{queues}")
}

/// The test guest with its root on a disk behind `controller`.
pub fn root(context: &Context, controller: &str, device: &str, modules: &str) -> Outcome {
    let image = context.copy(&Image::build("guest")?.file("guest.qcow2"), "root.qcow2")?;
    let script = format!(
        "grep -q '^/dev/{device} / ' /proc/mounts || exit 1\n{} --ioengine=psync\n",
        fio_verify_of("8m", "root", "/root/data")
    );
    let disk = Disk::new(&image, "qcow2").with(&behind(controller));
    let mut guest = Guest::on_disk(context.vmm.clone(), disk, Job::new(script))?.cpus(2);
    guest.append = format!("root=/dev/{device} {modules},ext4,crc32c_generic");
    context.succeed(&guest)?;
    check_qcow2(&image)
}

fn nvme_root(context: &Context) -> Outcome {
    root(context, "nvme", "nvme0n1", NVME_MODULES)
}

fn scsi_root(context: &Context) -> Outcome {
    root(context, "virtio-scsi", "sda", SCSI_MODULES)
}

/// A qcow2 node in QEMU's words.
pub fn node(name: &str, path: &Path) -> Value {
    let file = json!({ "driver": "file", "filename": text(path) });
    json!({ "driver": "qcow2", "node-name": name, "file": file })
}

/// Four writers on four queues of two iothreads.
fn queues(context: &Context, modules: &str, device: &str, devices: &[Value]) -> Outcome {
    let image = context.qcow2("q.qcow2", 128)?;
    let script = format!(
        "[ \"$(ls /sys/block/{device}/mq | wc -l)\" = 4 ] || exit 3
        fio --name=q --filename=/dev/{device} --rw=randwrite --bs=4k --size=8m --numjobs=4 \
            --offset_increment=16m --direct=1 --iodepth=8 --ioengine=io_uring \
            --verify=crc32c --verify_fatal=1 --group_reporting --output-format=terse\n"
    );
    let mut guest = guest(context, modules, script)?.cpus(4).with(&[
        "-object",
        "iothread,id=io0",
        "-object",
        "iothread,id=io1",
        "-blockdev",
        &node("q", &image).to_string(),
    ]);
    for device in devices {
        guest = guest.with(&["-device", &device.to_string()]);
    }
    context.succeed(&guest)?;
    check_qcow2(&image)
}

fn nvme_queues(context: &Context) -> Outcome {
    let device = json!({
        "driver": "nvme", "drive": "q", "serial": "Q", "max_ioqpairs": 4,
        "iothread-vq-mapping": [{ "iothread": "io0" }, { "iothread": "io1" }],
    });
    queues(context, NVME_MODULES, "nvme0n1", &[device])
}

fn scsi_queues(context: &Context) -> Outcome {
    let adapter = json!({
        "driver": "virtio-scsi-pci", "id": "hba", "num_queues": 4,
        "iothread-vq-mapping": [{ "iothread": "io0" }, { "iothread": "io1" }],
    });
    let disk = json!({ "driver": "scsi-hd", "drive": "q", "bus": "hba.0" });
    queues(context, SCSI_MODULES, "sda", &[adapter, disk])
}

/// Linux has no quirk for the controller: it shows the identifiers that were given.
fn nvme_identifiers(context: &Context) -> Outcome {
    let image = context.qcow2("a.qcow2", 16)?;
    let script = r#"
        cd /sys/block/nvme0n1 || exit 1
        serial=/sys/class/nvme/nvme0/serial
        cat uuid eui nguid $serial
        [ "$(cat uuid)" = 12345678-9abc-def0-1234-56789abcdef0 ] || exit 2
        [ "$(tr -d ' ' <eui)" = 1122334455667788 ] || exit 3
        [ "$(tr -d '-' <nguid)" = 0102030405060708090a0b0c0d0e0f10 ] || exit 4
        [ "$(tr -d ' ' <$serial)" = SERIAL7 ] || exit 5
        [ "$(cat nsid)" = 5 ] || exit 6
    "#;
    let guest = guest(context, NVME_MODULES, script)?.with(&[
        "-blockdev",
        &node("a", &image).to_string(),
        "-device",
        "nvme,id=c,serial=SERIAL7",
        "-device",
        "nvme-ns,drive=a,bus=c,nsid=5,uuid=12345678-9abc-def0-1234-56789abcdef0,\
         eui64=0x1122334455667788,nguid=0102030405060708090a0b0c0d0e0f10",
    ]);
    context.succeed(&guest).map(drop)
}

/// What `nvme-cli` reads, and the commands that Linux itself sends seldom.
fn nvme_cli(context: &Context) -> Outcome {
    let image = context.qcow2("a.qcow2", 64)?;
    let script = r#"
        set -x
        n=/dev/nvme0n1
        nvme id-ctrl /dev/nvme0 || exit 1
        nvme id-ns $n || exit 2
        nvme list-ns /dev/nvme0 || exit 3
        nvme smart-log /dev/nvme0 || exit 4
        nvme error-log /dev/nvme0 || exit 5
        nvme get-feature /dev/nvme0 -f 7 -H || exit 6
        head -c 65536 /dev/urandom >/tmp/data
        nvme write $n -s 8 -c 127 -z 65536 -d /tmp/data || exit 10
        nvme read $n -s 8 -c 127 -z 65536 -d /tmp/back || exit 11
        cmp /tmp/data /tmp/back || exit 12
        nvme compare $n -s 8 -c 127 -z 65536 -d /tmp/data || exit 13
        nvme flush $n || exit 14
        nvme verify $n -s 8 -c 127 || exit 15
        nvme write-zeroes $n -s 8 -c 63 || exit 16
        nvme read $n -s 8 -c 63 -z 32768 -d /tmp/back || exit 17
        head -c 32768 /tmp/back | tr -d '\0' | grep -q . && exit 18
        nvme dsm $n -d -s 72 -b 64 || exit 19
        nvme compare $n -s 8 -c 127 -z 65536 -d /tmp/data && exit 20
        true
    "#;
    let disk = Disk::new(&image, "qcow2").with("controller=nvme,serial=CLI");
    context.succeed(&guest(context, NVME_MODULES, script)?.disk(disk))?;
    check_qcow2(&image)
}

/// After `nvme format` blocks have another size, and their old content is gone.
fn nvme_format(context: &Context) -> Outcome {
    let image = context.qcow2("a.qcow2", 32)?;
    let script = format!(
        r#"
        set -x
        n=/dev/nvme0n1
        yes data | head -c 1048576 | dd of=$n bs=64k oflag=direct || exit 1
        nvme format $n -l 1 --force || exit 2
        blockdev --rereadpt $n 2>/dev/null
        [ "$(blockdev --getss $n)" = 4096 ] || exit 3
        dd if=$n bs=1M count=1 iflag=direct | tr -d '\0' | grep -q . && exit 4
        {} --ioengine=io_uring || exit 5
        nvme format $n -l 0 --force || exit 6
        [ "$(blockdev --getss $n)" = 512 ] || exit 7
    "#,
        fio_verify("a", "/dev/nvme0n1")
    );
    let disk = Disk::new(&image, "qcow2").with("controller=nvme,state=none");
    context.succeed(&guest(context, NVME_MODULES, script)?.disk(disk))?;
    check_qcow2(&image)
}

/// Fills 32 MiB of a disk, has the guest give them back, and looks at the file.
pub fn discards(
    context: &Context,
    modules: &str,
    controller: &str,
    device: &str,
    how: &str,
) -> Outcome {
    let image = context.raw("a.raw", 64)?;
    let script = format!(
        "fio --name=fill --filename=/dev/{device} --rw=write --bs=1m --size=32m --direct=1 \
             --ioengine=psync --output-format=terse || exit 1
        echo '<<filled>>'
        sleep 3
        {how}\n"
    );
    let disk = Disk::new(&image, "raw").with(&format!("discard=unmap,controller={controller}"));
    let mut running = context.start(&guest(context, modules, script)?.disk(disk))?;
    running.wait_for("<<filled>>")?;
    let size = allocated(&image)?;
    require(size >= 32 << 20, || format!("the file holds only {size} bytes"))?;
    running.finish()?.success()?;
    let size = allocated(&image)?;
    require(size <= 1 << 20, || format!("the file still holds {size} bytes"))
}

fn nvme_discard(context: &Context) -> Outcome {
    let how = "blkdiscard -l 16777216 /dev/nvme0n1 || exit 2
        nvme write-zeroes /dev/nvme0n1 -d -s 32768 -c 32767 || exit 3";
    discards(context, NVME_MODULES, "nvme", "nvme0n1", how)
}

fn scsi_discard(context: &Context) -> Outcome {
    let how = "sg_unmap --lba=0 --num=16384 /dev/sda || exit 2
        blkdiscard -o 8388608 -l 8388608 /dev/sda || exit 3
        sg_write_same --unmap --lba=32768 --num=32768 --xferlen=512 /dev/sda || exit 4";
    discards(context, SCSI_MODULES, "virtio-scsi", "sda", how)
}

/// Verified writes go on over resets of what they go through.
pub fn resets(
    context: &Context,
    modules: &str,
    controller: &str,
    device: &str,
    reset: &str,
) -> Outcome {
    let image = context.qcow2("a.qcow2", 64)?;
    let script = format!(
        "set -x
        ({} --ioengine=io_uring --loops=4; echo $? >/tmp/status) &
        for i in 1 2 3 4 5 6; do
            sleep 0.5
            {reset} || exit 2
        done
        wait
        [ \"$(cat /tmp/status)\" = 0 ]\n",
        fio_verify("a", &format!("/dev/{device}"))
    );
    let disk = Disk::new(&image, "qcow2").with(&behind(controller));
    context.succeed(&guest(context, modules, script)?.cpus(2).disk(disk))?;
    check_qcow2(&image)
}

/// libata has no reset by ioctl; a scan that a user asks for resets the port (`ata_scsi_user_scan`).
pub const ATA_RESET: &str = "echo '- - -' >/sys/class/scsi_host/$(readlink -f /sys/block/sda \
    | grep -o 'host[0-9]*' | head -n1)/scan";

fn nvme_reset(context: &Context) -> Outcome {
    resets(context, NVME_MODULES, "nvme", "nvme0n1", "nvme reset /dev/nvme0")
}

fn scsi_reset(context: &Context) -> Outcome {
    resets(context, SCSI_MODULES, "virtio-scsi", "sda", "sg_reset --device --no-escalate /dev/sda")
}

/// The driver is taken away in the middle of its requests and comes back, again and again; then the disk
/// works as before.
pub fn unbinds(
    context: &Context,
    modules: &str,
    controller: &str,
    driver: &str,
    device: &str,
) -> Outcome {
    let image = context.qcow2("a.qcow2", 64)?;
    let script = format!(
        r#"
        set -x
        cd /sys/bus/{driver} || exit 1
        function=$(basename $(ls -d [0-9v]*:* virtio[0-9]* 2>/dev/null | head -n 1))
        wait_for() {{
            tries=0
            until [ "$(ls /sys/block | grep -cx {device})" = $1 ]; do
                tries=$((tries + 1))
                [ $tries -lt 100 ] || exit $2
                sleep 0.1
            done
        }}
        for i in 1 2 3; do
            wait_for 1 2
            fio --name=load --filename=/dev/{device} --rw=randrw --bs=4k --direct=1 --iodepth=16                 --ioengine=io_uring --time_based --runtime=60 --size=8m >/dev/null 2>&1 &
            sleep 1
            echo $function >unbind || exit 3
            wait_for 0 4
            wait
            echo $function >bind || exit 5
        done
        wait_for 1 6
        {fio} --ioengine=io_uring
        "#,
        fio = fio_verify("a", &format!("/dev/{device}"))
    );
    let disk = Disk::new(&image, "qcow2").with(&behind(controller));
    context.succeed(&guest(context, modules, script)?.cpus(2).disk(disk))?;
    check_qcow2(&image)
}

fn nvme_unbind(context: &Context) -> Outcome {
    unbinds(context, NVME_MODULES, "nvme", "pci/drivers/nvme", "nvme0n1")
}

fn scsi_unbind(context: &Context) -> Outcome {
    unbinds(context, SCSI_MODULES, "virtio-scsi", "virtio/drivers/virtio_scsi", "sda")
}

/// What the sg3 utilities read and write.
fn sg3_utils(context: &Context) -> Outcome {
    let image = context.qcow2("a.qcow2", 64)?;
    let script = r#"
        set -x
        d=/dev/sda
        sg_inq $d || exit 1
        for page in 0x00 0x80 0x83 0x86 0xb0 0xb1 0xb2; do sg_vpd -p $page $d || exit 2; done
        sg_vpd -p 0x80 $d | grep -q SERIAL7 || exit 3
        sg_readcap $d && sg_readcap --16 $d || exit 4
        sg_modes -a $d || exit 5
        sg_logs -a $d || exit 6
        sg_luns $d || exit 7
        sg_opcodes $d || exit 8
        sg_turs $d && sg_requests $d || exit 9
        sg_verify --lba=0 --count=64 $d || exit 10
        sg_sync $d || exit 11
        sg_get_lba_status --lba=0 $d || exit 12
        head -c 512 /dev/urandom >/tmp/one
        sg_write_same --in=/tmp/one --lba=100 --num=50 --xferlen=512 $d || exit 13
        dd if=$d bs=512 skip=149 count=1 iflag=direct | cmp - /tmp/one || exit 14
        head -c 512 /dev/urandom >/tmp/two
        cat /tmp/one /tmp/two >/tmp/both
        sg_compare_and_write --in=/tmp/both --lba=100 --num=1 --xferlen=1024 $d || exit 15
        dd if=$d bs=512 skip=100 count=1 iflag=direct | cmp - /tmp/two || exit 16
        sg_compare_and_write --in=/tmp/both --lba=100 --num=1 --xferlen=1024 $d && exit 17
        sg_unmap --lba=100 --num=50 $d || exit 18
        sg_start --stop $d && sg_start --start $d || exit 19
        sg_prevent --allow $d || exit 20
    "#;
    let disk = Disk::new(&image, "qcow2").with("controller=virtio-scsi,serial=SERIAL7");
    context.succeed(&guest(context, SCSI_MODULES, script)?.disk(disk))?;
    check_qcow2(&image)
}

/// One image behind two adapters is one unit: what one path reserves, the other one respects; with APTPL it
/// is still reserved in the next machine.
fn scsi_reservations(context: &Context) -> Outcome {
    let image = context.qcow2("a.qcow2", 16)?;
    let with = |script: &str| -> Result<Guest, Error> {
        Ok(guest(context, SCSI_MODULES, script)?.with(&[
            "-blockdev",
            &node("a", &image).to_string(),
            "-device",
            "virtio-scsi-pci,id=one",
            "-device",
            "virtio-scsi-pci,id=two",
            "-device",
            "scsi-hd,drive=a,bus=one.0,share-rw=on",
            "-device",
            "scsi-hd,drive=a,bus=two.0,share-rw=on",
        ]))
    };
    let reserve = r#"
        set -x
        sg_persist --out --register --param-sark=0x11 --param-aptpl /dev/sda || exit 1
        sg_persist --out --reserve --param-rk=0x11 --prout-type=1 /dev/sda || exit 2
        sg_persist --in --read-reservation /dev/sdb | grep -q 'Key=0x11' || exit 3
        dd if=/dev/zero of=/dev/sda bs=4k count=1 oflag=direct || exit 4
        dd if=/dev/zero of=/dev/sdb bs=4k count=1 oflag=direct && exit 5
        dd if=/dev/sdb of=/dev/null bs=4k count=1 iflag=direct || exit 6
    "#;
    context.succeed(&with(reserve)?)?;
    let look = r#"
        set -x
        sg_persist --in --read-keys /dev/sda | grep -qi 0x11 || exit 1
        sg_persist --in --read-reservation /dev/sdb | grep -qi 'Key=0x11' || exit 2
        sg_persist --out --register-ignore --param-sark=0x22 /dev/sdb || exit 3
        sg_persist --out --clear --param-rk=0x22 /dev/sdb || exit 4
        dd if=/dev/zero of=/dev/sdb bs=4k count=1 oflag=direct || exit 5
    "#;
    context.succeed(&with(look)?)?;
    check_qcow2(&image)
}

fn scsi_medium(context: &Context) -> Outcome {
    let devices = ["virtio-scsi-pci,id=hba", "scsi-cd,id=cd,drive=m,bus=hba.0"];
    medium(context, SCSI_MODULES, &devices)
}

/// The guest reads a medium, sees the tray open, and reads the next one.
pub fn medium(context: &Context, modules: &str, devices: &[&str; 2]) -> Outcome {
    let media = ["first", "second"].map(|name| context.work.join(format!("{name}.iso")));
    for (path, name) in media.iter().zip(["first", "second"]) {
        let content = crate::iso::image(name, format!("{name}\n").as_bytes());
        std::fs::write(path, content).map_err(spindle_tests::lab::LabError::file("write", path))?;
    }
    let script = r#"
        mkdir -p /mnt
        says() {
            mount -t iso9660 -o ro /dev/sr0 /mnt 2>/dev/null || return
            cat /mnt/name.txt
            umount /mnt
        }
        [ "$(says)" = first ] || exit 1
        echo "<<read>>"
        tries=0
        until [ "$(says)" = second ]; do
            tries=$((tries + 1))
            [ $tries -lt 60 ] || exit 2
            sleep 0.5
        done
        # The guest opens the tray; somebody closes it.
        sg_start --eject /dev/sr0 || exit 3
        echo "<<ejected>>"
        until [ "$(says)" = second ]; do
            tries=$((tries + 1))
            [ $tries -lt 120 ] || exit 4
            sleep 0.5
        done
    "#;
    let file = json!({ "driver": "file", "filename": text(&media[0]) });
    let blockdev = json!({ "driver": "raw", "node-name": "m", "read-only": true, "file": file });
    let guest = guest(context, modules, script)?.with(&[
        "-blockdev",
        &blockdev.to_string(),
        "-device",
        devices[0],
        "-device",
        devices[1],
    ]);
    let (mut running, mut qmp) = with_monitor(context, guest)?;
    running.wait_for("<<read>>")?;
    let change = json!({ "id": "cd", "filename": text(&media[1]), "format": "raw", "force": true });
    qmp.execute("blockdev-change-medium", change)?;
    let opened = qmp.wait_event("DEVICE_TRAY_MOVED")?;
    require(opened["tray-open"] == true, || format!("the first event is {opened}"))?;
    let closed = qmp.wait_event("DEVICE_TRAY_MOVED")?;
    require(closed["tray-open"] == false, || format!("the second event is {closed}"))?;
    running.wait_for("<<ejected>>")?;
    let opened = qmp.wait_event("DEVICE_TRAY_MOVED")?;
    require(opened["tray-open"] == true, || format!("the third event is {opened}"))?;
    qmp.execute("blockdev-close-tray", json!({ "id": "cd" }))?;
    running.finish()?.success().map(drop)
}

/// Writes and verifies a disk each time it comes, and reads from it until it goes. A disk that is gone may
/// read as an empty one, which fio takes for no error: so it ends by itself.
fn follow(device: &str, rounds: u32) -> String {
    format!(
        r#"
        wait_for() {{
            tries=0
            until [ "$(ls /sys/block | grep -cx {device})" = $1 ]; do
                tries=$((tries + 1))
                [ $tries -lt 100 ] || exit $2
                sleep 0.2
            done
        }}
        round=0
        while [ $round -lt {rounds} ]; do
            echo "<<ready $round>>"
            wait_for 1 2
            {fio} --ioengine=io_uring || exit 3
            fio --name=load --filename=/dev/{device} --rw=randread --bs=4k --direct=1 --iodepth=16 \
                --ioengine=io_uring --time_based --runtime=8 --size=8m >/dev/null 2>&1 &
            sleep 0.5
            echo "<<loaded $round>>"
            wait_for 0 4
            wait
            round=$((round + 1))
        done
        "#,
        fio = fio_verify_of("4m", "plug", &format!("/dev/{device}")),
    )
}

/// Adds a device, lets the guest use it, and takes it away while it does.
fn rounds(
    running: &mut spindle_tests::lab::guest::Running,
    qmp: &mut Qmp,
    rounds: u32,
    device: &Value,
) -> Outcome {
    for round in 0..rounds {
        running.wait_for(&format!("<<ready {round}>>"))?;
        qmp.execute("device_add", device.clone())?;
        running.wait_for(&format!("<<loaded {round}>>"))?;
        qmp.execute("device_del", json!({ "id": device["id"] }))?;
        let gone = qmp.wait_event("DEVICE_DELETED")?;
        require(gone["device"] == device["id"], || format!("the event says {gone}"))?;
    }
    Ok(())
}

/// How often each device comes and goes.
const ROUNDS: u32 = 2;

/// Whole functions over ACPI: a virtio disk, and an NVMe controller in the same way.
fn plug_functions(context: &Context) -> Outcome {
    for (driver, name, modules) in [
        ("virtio-blk-pci", "vda", "spindle.modules=virtio_pci,virtio_blk"),
        ("nvme", "nvme0n1", NVME_MODULES),
    ] {
        let image = context.qcow2(&format!("{name}.qcow2"), 16)?;
        let guest = guest(context, modules, follow(name, ROUNDS))?
            .cpus(2)
            .with(&["-blockdev", &node("a", &image).to_string()]);
        let (mut running, mut qmp) = with_monitor(context, guest)?;
        let device = json!({ "driver": driver, "id": "hot", "drive": "a" });
        rounds(&mut running, &mut qmp, ROUNDS, &device)?;
        // Nobody holds the node any more.
        qmp.execute("blockdev-del", json!({ "node-name": "a" }))?;
        running.finish()?.success()?;
        check_qcow2(&image)?;
    }
    Ok(())
}

/// A namespace of a controller, and a unit of an adapter.
fn plug_disks(context: &Context) -> Outcome {
    for (controller, device, name, modules) in [
        ("nvme,id=c", json!({ "driver": "nvme-ns", "bus": "c" }), "nvme0n1", NVME_MODULES),
        ("virtio-scsi-pci,id=c", json!({ "driver": "scsi-hd", "bus": "c.0" }), "sda", SCSI_MODULES),
        ("ich9-ahci,id=c", json!({ "driver": "ide-hd", "bus": "c.2" }), "sda", AHCI_MODULES),
    ] {
        let image = context.qcow2(&format!("{name}.qcow2"), 16)?;
        let guest = guest(context, modules, follow(name, ROUNDS))?.cpus(2).with(&[
            "-blockdev",
            &node("a", &image).to_string(),
            "-device",
            controller,
        ]);
        let (mut running, mut qmp) = with_monitor(context, guest)?;
        let mut device = device;
        device["id"] = json!("hot");
        device["drive"] = json!("a");
        rounds(&mut running, &mut qmp, ROUNDS, &device)?;
        qmp.execute("blockdev-del", json!({ "node-name": "a" }))?;
        running.finish()?.success()?;
        check_qcow2(&image)?;
    }
    Ok(())
}
