//! IDE with Linux's driver: a root, both channels at once, discards, discs, and what drives keep.

use serde_json::json;
use spindle_tests::lab::guest::Disk;

use crate::cases::{Case, Context, Outcome, check_qcow2};
use crate::controllers::{discards, guest, medium, node, resets, root};
use crate::disk::{fio_verify, fio_verify_of};

/// Cases of the group `ide`.
pub const CASES: &[Case] = &[
    Case { name: "root-on-ide", run: ide_root },
    Case { name: "ide-both-channels-at-once", run: ide_channels },
    Case { name: "ide-master-and-slave-with-ultra-dma", run: ide_cable },
    Case { name: "ide-by-pio", run: ide_pio },
    Case { name: "ide-discard-shrinks-the-file", run: ide_discard },
    Case { name: "ide-resets-under-load", run: ide_reset },
    Case { name: "ide-identity-and-settings", run: ide_settings },
    Case { name: "an-ide-drive-changes-its-disc", run: ide_medium },
];

const MODULES: &str = "spindle.modules=ata_piix,sd_mod,sg,sr_mod,isofs";

fn ide_root(context: &Context) -> Outcome {
    root(context, "ide", "sda", MODULES)
}

/// Two disks at once, each channel on an iothread of its own.
fn ide_channels(context: &Context) -> Outcome {
    let images = [context.qcow2("a.qcow2", 64)?, context.qcow2("b.qcow2", 64)?];
    let script = format!(
        "set -x
        dmesg | grep -q 'ata_piix 0000:00:01.1' || exit 2
        ({} --ioengine=io_uring; echo $? >/tmp/status) &
        {} --ioengine=io_uring || exit 1
        wait
        dmesg | grep -iE 'ata[0-9]+.*(exception|failed|error)' && exit 6
        [ \"$(cat /tmp/status)\" = 0 ]\n",
        fio_verify("a", "/dev/sda"),
        fio_verify("b", "/dev/sdb"),
    );
    let controller = json!({
        "driver": "piix3-ide", "id": "ide",
        "iothread-vq-mapping": [{ "iothread": "io0" }, { "iothread": "io1" }],
    });
    let guest = guest(context, MODULES, script)?.cpus(2).with(&[
        "-object",
        "iothread,id=io0",
        "-object",
        "iothread,id=io1",
        "-blockdev",
        &node("a", &images[0]).to_string(),
        "-blockdev",
        &node("b", &images[1]).to_string(),
        "-device",
        &controller.to_string(),
        "-device",
        "ide-hd,drive=a,bus=ide.0",
        "-device",
        "ide-hd,drive=b,bus=ide.1",
    ]);
    context.succeed(&guest)?;
    images.iter().try_for_each(|image| check_qcow2(image))
}

/// Two disks on one cable, by Ultra DMA.
fn ide_cable(context: &Context) -> Outcome {
    let images = [context.qcow2("a.qcow2", 64)?, context.qcow2("b.qcow2", 64)?];
    let script = format!(
        "set -x
        grep -h . /sys/class/ata_device/dev1.*/xfer_mode
        [ \"$(grep -lx XFER_UDMA_2 /sys/class/ata_device/dev1.*/xfer_mode | wc -l)\" = 2 ] || exit 2
        ({} --ioengine=psync; echo $? >/tmp/status) &
        {} --ioengine=psync || exit 1
        wait
        [ \"$(cat /tmp/status)\" = 0 ]\n",
        fio_verify("a", "/dev/sda"),
        fio_verify("b", "/dev/sdb"),
    );
    let disk = |image, unit: &str| {
        Disk::new(image, "qcow2").with(&format!("controller=ide,model=piix4,port=0,unit={unit}"))
    };
    let guest = guest(context, MODULES, script)?
        .cpus(2)
        .disk(disk(&images[0], "0"))
        .disk(disk(&images[1], "1"));
    context.succeed(&guest)?;
    images.iter().try_for_each(|image| check_qcow2(image))
}

/// The same through the data port.
fn ide_pio(context: &Context) -> Outcome {
    let image = context.qcow2("a.qcow2", 64)?;
    let script = format!(
        "set -x
        grep -h . /sys/class/ata_device/dev1.0/xfer_mode
        grep -q PIO /sys/class/ata_device/dev1.0/xfer_mode || exit 2
        {} --ioengine=psync || exit 1
        dmesg | grep -iE 'ata[0-9]+.*(exception|failed|error)' && exit 6
        exit 0\n",
        fio_verify_of("1m", "a", "/dev/sda")
    );
    let mut guest = guest(context, MODULES, script)?
        .cpus(2)
        .disk(Disk::new(&image, "qcow2").with("controller=ide"));
    guest.append.push_str(" libata.dma=0");
    context.succeed(&guest)?;
    check_qcow2(&image)
}

fn ide_discard(context: &Context) -> Outcome {
    let how = "blkdiscard -l 33554432 /dev/sda || exit 2";
    discards(context, MODULES, "ide", "sda", how)
}

fn ide_reset(context: &Context) -> Outcome {
    let reset = crate::controllers::ATA_RESET;
    resets(context, MODULES, "ide", "sda", reset)
}

/// Commands that Linux itself seldom sends, by ATA PASS-THROUGH (SAT): SMART, power, security.
fn ide_settings(context: &Context) -> Outcome {
    let image = context.qcow2("a.qcow2", 64)?;
    let script = r#"
        set -x
        d=/dev/sda
        sg_sat_identify $d || exit 1
        sg_inq -p ai $d || exit 2
        dmesg | grep -i 'ata1.00' || exit 3
        # Non-data, 28 bits: protocol 3; PIO in: protocol 4, one block, length in COUNT.
        plain() { sg_raw $d 85 06 00 00 $1 00 $2 00 $3 00 $4 00 $5 00 $6 00; }
        get() { sg_raw -r 512 -o /tmp/page $d 85 08 0e 00 $1 00 $2 00 $3 00 $4 00 $5 00 $6 00; }
        plain 00 00 00 00 00 e7 || exit 10
        # SMART: enable, status, a short self-test, its log.
        plain d8 00 00 4f c2 b0 || exit 11
        plain da 00 00 4f c2 b0 || exit 12
        plain d4 00 01 4f c2 b0 || exit 13
        tries=0
        while get d0 01 00 4f c2 b0 || exit 14; [ "$(od -An -tx1 -j363 -N1 /tmp/page)" != ' 00' ]; do
            tries=$((tries + 1))
            [ $tries -lt 50 ] || exit 17
            sleep 0.2
        done
        get d5 01 06 4f c2 b0 || exit 15
        [ "$(od -An -tu1 -j508 -N1 /tmp/page | tr -d ' ')" = 1 ] || exit 16
        # A password, and an erase with it.
        head -c 65536 /dev/urandom | dd of=$d bs=64k oflag=direct || exit 20
        head -c 512 /dev/zero >/tmp/password
        printf secret | dd of=/tmp/password bs=1 seek=2 conv=notrunc
        send() { sg_raw -s 512 -i /tmp/password $d 85 0a 06 00 00 00 01 00 00 00 00 00 00 00 $1 00; }
        send f1 || exit 21
        send f6 || exit 22
        send f1 || exit 23
        plain 00 00 00 00 00 f3 || exit 24
        send f4 || exit 25
        dd if=$d bs=64k count=1 iflag=direct | tr -d '\0' | grep -q . && exit 26
        plain 00 00 00 00 00 f5 || exit 27
        send f1 && exit 28
        true
    "#;
    let disk = Disk::new(&image, "qcow2").with("controller=ide,serial=CABLE");
    context.succeed(&guest(context, MODULES, script)?.disk(disk))?;
    check_qcow2(&image)
}

fn ide_medium(context: &Context) -> Outcome {
    medium(context, MODULES, &["piix3-ide,id=hba", "ide-cd,id=cd,drive=m,bus=hba.1"])
}
