//! AHCI with Linux's driver: a root, command queuing, discards, errors and resets under load, discs.

use serde_json::json;
use spindle_tests::lab::guest::Disk;

use crate::cases::{Case, Context, Outcome, check_qcow2};
use crate::controllers::{discards, guest, medium, node, resets, root, unbinds};
use crate::disk::{fio_verify, fio_verify_of};

/// Cases of the group `ahci`.
pub const AHCI: &[Case] = &[
    Case { name: "root-on-ahci", run: ahci_root },
    Case { name: "ahci-verify-at-depth-32", run: ahci_verify },
    Case { name: "ahci-two-ports-on-two-iothreads", run: ahci_ports },
    Case { name: "ahci-disks-behind-a-port-multiplier", run: ahci_multiplier },
    Case { name: "ahci-discard-shrinks-the-file", run: ahci_discard },
    Case { name: "ahci-resets-under-load", run: ahci_reset },
    Case { name: "ahci-unbound-under-load", run: ahci_unbind },
    Case { name: "ahci-medium-errors-are-recovered", run: ahci_errors },
    Case { name: "an-ahci-drive-changes-its-disc", run: ahci_medium },
];

pub const AHCI_MODULES: &str = "spindle.modules=ahci,sd_mod,sg,sr_mod,isofs";

fn ahci_root(context: &Context) -> Outcome {
    root(context, "ahci", "sda", AHCI_MODULES)
}

/// Linux uses all 32 tags, and what it wrote is there.
fn ahci_verify(context: &Context) -> Outcome {
    let image = context.qcow2("a.qcow2", 64)?;
    let script = format!(
        "set -x
        [ \"$(cat /sys/block/sda/device/queue_depth)\" = 32 ] || exit 1
        [ \"$(cat /sys/block/sda/device/model)\" = 'SPINDLE HARDDISK' ] || exit 2
        dmesg | grep -q 'ahci 0000:00:1f.2' || exit 3
        dmesg | grep -q 'NCQ (depth 32)' || exit 4
        {} --ioengine=io_uring || exit 5
        dmesg | grep -iE 'ata[0-9]+.*(exception|failed|error)' && exit 6
        exit 0\n",
        fio_verify("a", "/dev/sda").replace("--iodepth=16", "--iodepth=64")
    );
    let disk = Disk::new(&image, "qcow2").with("controller=ahci");
    context.succeed(&guest(context, AHCI_MODULES, script)?.cpus(2).disk(disk))?;
    check_qcow2(&image)
}

/// Two disks at once, each port on an iothread of its own.
fn ahci_ports(context: &Context) -> Outcome {
    let images = [context.qcow2("a.qcow2", 64)?, context.qcow2("b.qcow2", 64)?];
    let script = format!(
        "({} --ioengine=io_uring; echo $? >/tmp/status) &
        {} --ioengine=io_uring || exit 1
        wait
        [ \"$(cat /tmp/status)\" = 0 ]\n",
        fio_verify("a", "/dev/sda"),
        fio_verify("b", "/dev/sdb"),
    );
    let controller = json!({
        "driver": "ich9-ahci", "id": "sata", "ports": 2,
        "iothread-vq-mapping": [{ "iothread": "io0" }, { "iothread": "io1" }],
    });
    let guest = guest(context, AHCI_MODULES, script)?.cpus(2).with(&[
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
        "ide-hd,drive=a,bus=sata.0",
        "-device",
        "ide-hd,drive=b,bus=sata.1",
    ]);
    context.succeed(&guest)?;
    images.iter().try_for_each(|image| check_qcow2(image))
}

/// Three disks behind a port multiplier, all busy at once.
fn ahci_multiplier(context: &Context) -> Outcome {
    let images = [
        context.qcow2("a.qcow2", 64)?,
        context.qcow2("b.qcow2", 64)?,
        context.qcow2("c.qcow2", 64)?,
    ];
    let script = format!(
        "set -x
        dmesg | grep -E 'ata[0-9]+\\.15: Port Multiplier 1.2, 0x1af4:0x0001' || {{ dmesg | grep ata; exit 2; }}
        dmesg | grep 'FBS is enabled' || exit 3
        [ \"$(ls -d /sys/block/sd? | wc -l)\" = 3 ] || exit 4
        for d in a b; do ({}; echo $? >/tmp/$d) & done
        d=c; {} || exit 1
        wait
        [ \"$(cat /tmp/a)$(cat /tmp/b)\" = 00 ] || exit 5
        dmesg | grep -iE 'ata[0-9]+.*(exception|failed|error)' && exit 6
        exit 0\n",
        behind("$d"),
        behind("$d"),
    );
    let mut arguments = vec!["-device".to_owned()];
    arguments.push("ich9-ahci,id=sata,ports=2,x-port-multiplier=5".to_owned());
    for (image, (name, unit)) in images.iter().zip([("a", 0), ("b", 1), ("c", 4)]) {
        arguments.extend(["-blockdev".to_owned(), node(name, image).to_string()]);
        arguments.push("-device".to_owned());
        arguments.push(format!("ide-hd,drive={name},bus=sata.1,unit={unit}"));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    context.succeed(&guest(context, AHCI_MODULES, script)?.cpus(2).with(&arguments))?;
    images.iter().try_for_each(|image| check_qcow2(image))
}

fn behind(letter: &str) -> String {
    let fio = fio_verify_of("8m", letter, &format!("/dev/sd{letter}"));
    format!("{fio} --ioengine=io_uring")
}

fn ahci_discard(context: &Context) -> Outcome {
    let how = "blkdiscard -l 33554432 /dev/sda || exit 2";
    discards(context, AHCI_MODULES, "ahci", "sda", how)
}

fn ahci_reset(context: &Context) -> Outcome {
    let reset = crate::controllers::ATA_RESET;
    resets(context, AHCI_MODULES, "ahci", "sda", reset)
}

fn ahci_unbind(context: &Context) -> Outcome {
    unbinds(context, AHCI_MODULES, "ahci", "pci/drivers/ahci", "sda")
}

/// One sector cannot be read: Linux finds out which by the log, and only that one is lost.
fn ahci_errors(context: &Context) -> Outcome {
    let image = context.raw("a.raw", 64)?;
    let script = r#"
        set -x
        fio --name=others --filename=/dev/sda --rw=randread --bs=4k --size=512k --direct=1 \
            --iodepth=8 --ioengine=io_uring --time_based --runtime=4 >/dev/null &
        sleep 1
        dd if=/dev/sda of=/dev/null bs=4k skip=256 count=1 iflag=direct && exit 1
        wait $! || exit 2
        dmesg | grep 'error: { UNC }' || exit 3
        dmesg | grep 'failed command: READ FPDMA QUEUED' || exit 4
        dd if=/dev/sda of=/dev/null bs=4k skip=255 count=1 iflag=direct || exit 5
        dd if=/dev/sda of=/dev/null bs=4k skip=257 count=1 iflag=direct || exit 6
    "#;
    let rule = json!({ "op": "read", "offset": 1 << 20, "length": 512, "errno": "EIO" });
    let fault = json!({
        "driver": "fault", "node-name": "f", "rules": [rule],
        "file": { "driver": "file", "filename": image },
    });
    let top = json!({ "driver": "raw", "node-name": "a", "file": "f" });
    let guest = guest(context, AHCI_MODULES, script)?.cpus(2).with(&[
        "-blockdev",
        &fault.to_string(),
        "-blockdev",
        &top.to_string(),
        "-device",
        "ich9-ahci,id=sata",
        "-device",
        "ide-hd,drive=a",
    ]);
    context.succeed(&guest).map(drop)
}

fn ahci_medium(context: &Context) -> Outcome {
    medium(context, AHCI_MODULES, &["ich9-ahci,id=hba", "ide-cd,id=cd,drive=m,bus=hba.2"])
}
