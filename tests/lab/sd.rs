//! SD cards and eMMC devices with Linux's sdhci-pci and mmc_block, and mmc-utils.

use serde_json::json;
use spindle_tests::lab::guest::{Disk, Guest};
use spindle_tests::lab::image::Image;
use spindle_tests::lab::job::Job;
use std::time::Duration;

use crate::cases::{Case, Context, Error, Outcome, check_qcow2, require};
use crate::controllers::{guest, node};
use crate::disk::{fio_verify_of, with_monitor};

/// Cases of the group `sd`.
pub const CASES: &[Case] = &[
    Case { name: "root-on-sd", run: sd_root },
    Case { name: "root-on-emmc", run: emmc_root },
    Case { name: "sd-moves-data-by-every-way", run: ways },
    Case { name: "sd-discard-shrinks-the-file", run: discard },
    Case { name: "mmc-utils-read-and-switch", run: mmc_utils },
    Case { name: "mmc-utils-authenticate", run: rpmb },
    Case { name: "an-sd-card-comes-and-goes", run: plug },
];

const MODULES: &str = "spindle.modules=sdhci-pci,mmc_block";

/// The test guest with its root on a card.
fn root(context: &Context, controller: &str) -> Outcome {
    let image = context.copy(&Image::build("guest")?.file("guest.qcow2"), "root.qcow2")?;
    let script = format!(
        "grep -q '^/dev/mmcblk0 / ' /proc/mounts || exit 1\n{} --ioengine=psync\n",
        fio_verify_of("8m", "root", "/root/data")
    );
    let disk = Disk::new(&image, "qcow2").with(&format!("controller={controller}"));
    let mut guest = Guest::on_disk(context.vmm.clone(), disk, Job::new(script))?;
    guest.append = format!("root=/dev/mmcblk0 {MODULES},ext4,crc32c_generic");
    context.succeed(&guest)?;
    check_qcow2(&image)
}

fn sd_root(context: &Context) -> Outcome {
    root(context, "sd")
}

fn emmc_root(context: &Context) -> Outcome {
    root(context, "emmc")
}

/// A guest that waits for its card before it does anything else.
fn with_card(context: &Context, modules: &str, script: &str) -> Result<Guest, Error> {
    let wait = "tries=0
        until [ -b /dev/mmcblk0 ]; do
            tries=$((tries + 1))
            [ $tries -lt 100 ] || { dmesg | tail -n 30; exit 99; }
            sleep 0.1
        done\n";
    guest(context, modules, format!("{wait}{script}"))
}

/// DMA by descriptors of 64 bits (the default), of 32 bits, SDMA, and the data port: the driver's quirks
/// take one after the other away (SDHCI_QUIRK_BROKEN_DMA and _ADMA, SDHCI_QUIRK2_BROKEN_64_BIT_DMA).
fn ways(context: &Context) -> Outcome {
    for (quirks, quirks2, size, says) in [
        (0, 0, "2m", "ADMA 64-bit"),
        (0, 1 << 9, "2m", "ADMA"),
        (1 << 6, 1 << 9, "2m", "DMA"),
        (1 << 5 | 1 << 6, 0, "128k", "PIO"),
    ] {
        let image = context.qcow2(&format!("way-{quirks}-{quirks2}.qcow2"), 64)?;
        let fio = fio_verify_of(size, "way", "/dev/mmcblk0");
        let script = format!(
            "dmesg | grep 'using {says}$' || {{ dmesg | grep mmc; exit 3; }}
            {fio} --ioengine=io_uring || exit 4
            ! dmesg | grep -E 'mmc0.*(error|timeout|Timeout)' || exit 5\n"
        );
        let modules =
            format!("{MODULES} sdhci.debug_quirks={quirks} sdhci.debug_quirks2={quirks2}");
        let disk = Disk::new(&image, "qcow2").with("controller=sd");
        let mut guest = with_card(context, &modules, &script)?.disk(disk);
        // Every word is an exit in the driver's interrupt handler, before which nothing else runs.
        guest.silence = Duration::from_secs(60);
        context.succeed(&guest)?;
        check_qcow2(&image)?;
    }
    Ok(())
}

fn discard(context: &Context) -> Outcome {
    for controller in ["sd", "emmc"] {
        let image = context.qcow2(&format!("discard-{controller}.qcow2"), 64)?;
        let script = "dd if=/dev/urandom of=/dev/mmcblk0 bs=1M count=16 oflag=direct || exit 1
            blkdiscard /dev/mmcblk0 || exit 2
            dd if=/dev/mmcblk0 bs=1M count=16 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c \
                | grep -qx 0 || exit 3\n";
        let disk = Disk::new(&image, "qcow2").with(&format!("controller={controller}"));
        context.succeed(&with_card(context, MODULES, script)?.disk(disk))?;
        let left = crate::disk::allocated(&image)?;
        require(left < 2 << 20, || format!("{controller}: {left} bytes are left"))?;
        check_qcow2(&image)?;
    }
    Ok(())
}

/// An eMMC device with all its partitions, on an image that holds them.
fn emmc(context: &Context, name: &str, script: &str) -> Result<Guest, Error> {
    let image = context.qcow2(name, 64 + 2)?;
    let device = json!({
        "driver": "emmc", "id": "mmc", "drive": "a",
        "boot-partition-size": 512 << 10, "rpmb-partition-size": 1 << 20,
    });
    let guest = with_card(context, MODULES, script)?;
    Ok(guest.with(&[
        "-blockdev",
        &node("a", &image).to_string(),
        "-device",
        "sdhci-pci,id=host",
        "-device",
        &device.to_string(),
    ]))
}

fn mmc_utils(context: &Context) -> Outcome {
    let script = r#"
        mmc extcsd read /dev/mmcblk0 >/tmp/ext || exit 1
        grep -q 'Extended CSD rev 1.8 (MMC 5.1)' /tmp/ext || { head -20 /tmp/ext; exit 2; }
        grep -q 'Boot Information\|BOOT_SIZE_MULTI: 0x04\|Boot partition size' /tmp/ext || exit 3
        [ "$(cat /sys/block/mmcblk0boot0/size)" = 1024 ] || exit 4
        [ "$(cat /sys/block/mmcblk0/size)" = 131072 ] || exit 5
        echo 0 >/sys/block/mmcblk0boot1/force_ro
        dd if=/dev/urandom of=/tmp/boot bs=512k count=1 || exit 6
        dd if=/tmp/boot of=/dev/mmcblk0boot1 bs=512k oflag=direct || exit 7
        dd if=/dev/mmcblk0boot1 bs=512k iflag=direct | cmp - /tmp/boot || exit 8
        mmc bootpart enable 1 1 /dev/mmcblk0 || exit 9
        mmc extcsd read /dev/mmcblk0 | grep 'PARTITION_CONFIG: 0x48' || exit 10
        mmc writeprotect boot set /dev/mmcblk0 || exit 11
        # Linux answers a refused write with a power cycle, which ends this protection: it is only read.
        mmc extcsd read /dev/mmcblk0 | grep 'BOOT_WP.*: 0x0[15]' || { cat /tmp/ext; exit 12; }
        mmc cache disable /dev/mmcblk0 && mmc cache enable /dev/mmcblk0 || exit 13
        mmc sanitize /dev/mmcblk0 || exit 14
        mmc status get /dev/mmcblk0 || exit 15
    "#;
    context.succeed(&emmc(context, "utils.qcow2", script)?).map(drop)
}

fn rpmb(context: &Context) -> Outcome {
    let script = r#"
        cd /tmp
        printf 'AAAABBBBCCCCDDDDEEEEFFFFGGGGHHHH' >key
        head -c 256 /dev/urandom >data
        mmc rpmb write-key /dev/mmcblk0rpmb key || exit 1
        mmc rpmb read-counter /dev/mmcblk0rpmb | grep -i 'counter value: 0x00000000' || exit 2
        mmc rpmb write-block /dev/mmcblk0rpmb 2 data key || exit 3
        mmc rpmb read-block /dev/mmcblk0rpmb 2 1 back key || exit 4
        cmp data back || exit 5
        mmc rpmb read-counter /dev/mmcblk0rpmb | grep -i 'counter value: 0x00000001' || exit 6
        printf 'not the key, but as long as it..' >wrong
        ! mmc rpmb write-block /dev/mmcblk0rpmb 2 data wrong || exit 7
    "#;
    context.succeed(&emmc(context, "rpmb.qcow2", script)?).map(drop)
}

/// A card is put in, written, write protected, and taken out.
fn plug(context: &Context) -> Outcome {
    let image = context.qcow2("plug.qcow2", 64)?;
    let script = format!(
        r#"
        wait_for() {{
            tries=0
            until [ "$(ls /sys/block | grep -cx mmcblk0)" = $1 ]; do
                tries=$((tries + 1))
                [ $tries -lt 100 ] || exit $2
                sleep 0.2
            done
        }}
        for round in 0 1; do
            echo "<<ready $round>>"
            wait_for 1 2
            {fio} --ioengine=io_uring || exit 3
            (while dd if=/dev/mmcblk0 of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null; do :; done) &
            echo "<<loaded $round>>"
            wait_for 0 4
        done
        echo "<<ready 2>>"
        wait_for 1 5
        [ "$(cat /sys/block/mmcblk0/ro)" = 1 ] || exit 6
        "#,
        fio = fio_verify_of("1m", "plug", "/dev/mmcblk0"),
    );
    let guest = guest(context, MODULES, script)?.with(&[
        "-blockdev",
        &node("a", &image).to_string(),
        "-device",
        "sdhci-pci,id=host",
    ]);
    let (mut running, mut qmp) = with_monitor(context, guest)?;
    let device = json!({ "driver": "sd-card", "id": "card", "drive": "a" });
    for round in 0..2 {
        running.wait_for(&format!("<<ready {round}>>"))?;
        qmp.execute("device_add", device.clone())?;
        running.wait_for(&format!("<<loaded {round}>>"))?;
        qmp.execute("device_del", json!({ "id": "card" }))?;
        qmp.wait_event("DEVICE_DELETED")?;
    }
    running.wait_for("<<ready 2>>")?;
    // The switch is looked at when a card is found.
    qmp.execute("stop", json!({}))?;
    qmp.execute("device_add", device)?;
    qmp.execute("x-sd-set-wp", json!({ "id": "card", "write-protected": true }))?;
    qmp.execute("cont", json!({}))?;
    running.finish()?.success()?;
    check_qcow2(&image)
}
