//! A process that is killed while its guest writes.

use std::time::Duration;

use spindle_tests::lab::guest::{Disk, Guest};
use spindle_tests::lab::image::Image;
use spindle_tests::lab::job::Job;

use crate::cases::{Case, Context, Outcome, check_qcow2_after_crash, require, text, tool};

/// Cases of the group `crash`.
pub const CASES: &[Case] = &[
    Case { name: "kill-during-writes", run: kill },
    Case { name: "power-off-leaves-all-clean", run: power_off },
];

/// Writes small files, each synced and then announced, while fio makes noise in a file of its own.
const WRITER: &str = r#"
    fio --name=noise --filename=/root/noise --rw=randwrite --bs=4k --size=48m --ioengine=io_uring \
        --iodepth=8 --time_based --runtime=600 --fsync=64 --output-format=terse &
    number=0
    while :; do
        number=$((number + 1))
        seq $number $((number + 2000)) >/root/file.$number
        sync
        echo "synced $number"
    done
"#;

/// kill -9 at any instant: the image has leaks at most, the file system recovers by its journal alone, every
/// file that the guest knew to be on the disk is there, and the guest boots from it again.
fn kill(context: &Context) -> Outcome {
    let image = context.copy(&Image::build("guest")?.file("guest.qcow2"), "disk.qcow2")?;
    for round in 0..2_u64 {
        let disk = Disk::new(&image, "qcow2");
        let guest = Guest::on_disk(context.vmm.clone(), disk, Job::new(WRITER))?.cpus(2);
        let mut running = context.start(&guest)?;
        running.wait_for("synced 2\r\n")?;
        running.run_on(Duration::from_millis(1500 + 700 * round))?;
        let said = running.console();
        running.kill();

        check_qcow2_after_crash(&image)?;
        let flat = text(&context.work.join("flat.raw"));
        tool("qemu-img", &["convert", "-O", "raw", &text(&image), &flat])?;
        tool("/sbin/e2fsck", &["-E", "journal_only", "-y", &flat])?;
        tool("/sbin/e2fsck", &["-fn", &flat])?;
        let synced: Vec<u32> = said
            .lines()
            .filter_map(|line| line.strip_prefix("synced ")?.trim().parse().ok())
            .collect();
        require(synced.len() >= 2, || format!("the guest synced only {synced:?}"))?;
        for number in synced {
            let dump = format!("cat /root/file.{number}");
            let found = tool("/sbin/debugfs", &["-R", &dump, &flat])?;
            let wanted: String = (number..=number + 2000).map(|line| format!("{line}\n")).collect();
            require(found == wanted, || format!("file {number} is not what was synced"))?;
        }
    }
    let script = "cat /root/file.1 | wc -l && rm -f /root/noise /root/file.*";
    let again = Guest::on_disk(context.vmm.clone(), Disk::new(&image, "qcow2"), Job::new(script))?;
    context.succeed(&again)?;
    check_qcow2_after_crash(&image)
}

/// After an orderly end nothing is leaked and nothing is to be recovered.
fn power_off(context: &Context) -> Outcome {
    let image = context.copy(&Image::build("guest")?.file("guest.qcow2"), "disk.qcow2")?;
    let script = "fio --name=w --filename=/root/w --rw=randwrite --bs=4k --size=8m --ioengine=psync \
                  --fsync=32 --output-format=terse && sync && mount -o remount,ro /";
    let guest =
        Guest::on_disk(context.vmm.clone(), Disk::new(&image, "qcow2"), Job::new(script))?.cpus(2);
    context.succeed(&guest)?;
    crate::cases::check_qcow2(&image)?;
    let flat = text(&context.work.join("flat.raw"));
    tool("qemu-img", &["convert", "-O", "raw", &text(&image), &flat])?;
    tool("/sbin/e2fsck", &["-fn", &flat]).map(drop)
}
