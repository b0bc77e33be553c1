//! What an administrator does with NVMe and SCSI disks: namespaces made and deleted, sanitize, self-tests,
//! firmware, reservations, and a suite of SCSI tests that others wrote.

use spindle_tests::lab::guest::{Disk, Guest};

use crate::cases::{Case, Context, Error, Outcome, check_qcow2, require, text};
use crate::controllers::{NVME_MODULES, SCSI_MODULES, guest, node};

/// Cases of the group `management`.
pub const CASES: &[Case] = &[
    Case { name: "nvme-namespaces-are-made-and-deleted", run: namespaces },
    Case { name: "nvme-sanitize-and-self-test", run: sanitize },
    Case { name: "nvme-firmware-and-copy", run: firmware },
    Case { name: "nvme-reservations", run: reservations },
    Case { name: "iscsi-test-cu-passes", run: iscsi_test_cu },
];

/// Guests make namespaces in a pool; the next machine finds them, and what is deleted is gone.
fn namespaces(context: &Context) -> Outcome {
    let pool = context.work.join("pool");
    std::fs::create_dir(&pool).map_err(spindle_tests::lab::LabError::file("create", &pool))?;
    let device = format!("nvme,id=c,serial=POOL,pool={},pool-size=64M", text(&pool));
    let with = |script: &str| -> Result<Guest, Error> {
        Ok(guest(context, NVME_MODULES, script)?.with(&["-device", &device]))
    };
    let make = r#"
        set -x
        wait_for() {
            tries=0
            until [ -b /dev/nvme0n$1 ]; do
                tries=$((tries + 1))
                [ $tries -lt 50 ] || exit $2
                sleep 0.1
            done
        }
        nvme create-ns /dev/nvme0 -s 4096 -c 4096 -b 4096 || exit 1
        nvme create-ns /dev/nvme0 -s 8192 -c 8192 -b 512 || exit 2
        nvme create-ns /dev/nvme0 -s 1000000 -c 1000000 -b 4096 && exit 3
        nvme attach-ns /dev/nvme0 -n 1 -c 0 && nvme attach-ns /dev/nvme0 -n 2 -c 0 || exit 4
        nvme ns-rescan /dev/nvme0 || exit 5
        wait_for 1 6
        wait_for 2 7
        [ "$(blockdev --getss /dev/nvme0n1)" = 4096 ] || exit 8
        [ "$(blockdev --getsize64 /dev/nvme0n2)" = 4194304 ] || exit 9
        echo persistent | dd of=/dev/nvme0n1 bs=4k conv=sync,fsync oflag=direct || exit 10
        nvme detach-ns /dev/nvme0 -n 2 -c 0 && nvme delete-ns /dev/nvme0 -n 2 || exit 11
    "#;
    context.succeed(&with(make)?)?;
    require(!pool.join("ns2.qcow2").exists(), || "a deleted namespace is still there".to_owned())?;
    check_qcow2(&pool.join("ns1.qcow2"))?;
    let find = r#"
        [ "$(blockdev --getss /dev/nvme0n1)" = 4096 ] || exit 1
        dd if=/dev/nvme0n1 bs=4k count=1 iflag=direct | grep -q persistent || exit 2
        nvme delete-ns /dev/nvme0 -n 1 || exit 3
    "#;
    context.succeed(&with(find)?)?;
    require(!pool.join("ns1.qcow2").exists(), || "a deleted namespace is still there".to_owned())
}

/// After a sanitize operation nothing of the old content is left, on the guest's side and in the image.
fn sanitize(context: &Context) -> Outcome {
    let image = context.qcow2("a.qcow2", 16)?;
    let script = r#"
        set -x
        n=/dev/nvme0n1
        yes secret | head -c 4194304 | dd of=$n bs=64k oflag=direct conv=fsync || exit 1
        nvme sanitize /dev/nvme0 -a 2 || exit 2
        tries=0
        until nvme sanitize-log /dev/nvme0 | grep -q 65535; do
            tries=$((tries + 1))
            [ $tries -lt 100 ] || exit 3
            sleep 0.2
        done
        tries=0
        until dd if=$n of=/tmp/after bs=1M count=4 iflag=direct 2>/dev/null; do
            tries=$((tries + 1))
            [ $tries -lt 100 ] || exit 4
            sleep 0.2
        done
        grep -q secret /tmp/after && exit 5
        nvme device-self-test /dev/nvme0 -n 1 -s 1 || exit 6
        tries=0
        until nvme self-test-log /dev/nvme0 | grep -qi 'current operation *: *0'; do
            tries=$((tries + 1))
            [ $tries -lt 100 ] || exit 7
            sleep 0.2
        done
        nvme self-test-log /dev/nvme0
    "#;
    let disk = Disk::new(&image, "qcow2").with("controller=nvme");
    context.succeed(&guest(context, NVME_MODULES, script)?.disk(disk))?;
    check_qcow2(&image)
}

/// A firmware image goes to a slot, and blocks are copied by the controller.
fn firmware(context: &Context) -> Outcome {
    let image = context.qcow2("a.qcow2", 16)?;
    let script = r#"
        set -x
        n=/dev/nvme0n1
        nvme fw-log /dev/nvme0 || exit 1
        head -c 16384 /dev/urandom >/tmp/noise
        nvme fw-download /dev/nvme0 -f /tmp/noise || exit 2
        nvme fw-commit /dev/nvme0 -s 2 -a 1 && exit 3
        (printf 'spndlFW1REV2.0  ' && head -c 16368 /dev/urandom) >/tmp/image
        nvme fw-download /dev/nvme0 -f /tmp/image || exit 2
        nvme fw-commit /dev/nvme0 -s 2 -a 1
        nvme reset /dev/nvme0 || exit 4
        nvme fw-log /dev/nvme0
        nvme id-ctrl /dev/nvme0 | grep -q '^fr .*REV2.0' || exit 10
        head -c 32768 /dev/urandom | dd of=$n bs=32k oflag=direct || exit 5
        nvme copy $n -d 1024 -s 0 -b 63 || exit 6
        dd if=$n of=/tmp/a bs=32k count=1 iflag=direct || exit 7
        dd if=$n of=/tmp/b bs=32k count=1 skip=16 iflag=direct || exit 8
        cmp /tmp/a /tmp/b || exit 9
    "#;
    let disk = Disk::new(&image, "qcow2").with("controller=nvme");
    context.succeed(&guest(context, NVME_MODULES, script)?.disk(disk))?;
    check_qcow2(&image)
}

/// Two controllers of one subsystem: what one host identifier reserves is in the report of both.
fn reservations(context: &Context) -> Outcome {
    let image = context.qcow2("a.qcow2", 16)?;
    let script = r#"
        set -x
        n=/dev/nvme0n1
        nvme resv-register $n -k 0x11 -r 0 || exit 1
        nvme resv-acquire $n -c 0x11 -t 1 -a 0 || exit 2
        nvme resv-report $n || exit 3
        nvme resv-report $n | grep -qi 'rtype *: *1' || exit 4
        dd if=/dev/zero of=$n bs=4k count=1 oflag=direct || exit 5
        nvme resv-release $n -c 0x11 -t 1 -a 0 || exit 6
        nvme resv-report $n | grep -qi 'rtype *: *0' || exit 7
    "#;
    let disk = Disk::new(&image, "qcow2").with("controller=nvme");
    context.succeed(&guest(context, NVME_MODULES, script)?.disk(disk)).map(drop)
}

/// Tests of libiscsi's suite that fail, and why that is as it should be.
const SUITE_FAILURES: &[(&str, &str, &str)] = &[
    (
        "CompareAndWrite",
        "Simple",
        "wants 256 blocks refused: the one-byte field then says 0, a no-op",
    ),
    ("CompareAndWrite", "Miscompare", "the same"),
    ("Inquiry", "Standard", "knows no version of SPC later than SPC-4; the unit says SPC-5"),
    ("WriteSame16", "Unmap", "reads 32 MiB at once, more than Linux's SG_IO takes"),
    (
        "MultipathIO",
        "Simple",
        "earlier tests changed mode parameters on the other path: it is told",
    ),
];

/// Prints `failed SUITE TEST` for each test that failed, and the suite's own summary.
const SUITE_SUMMARY: &str = r#"
    summary() {
        awk '$1 == "Suite:" { suite = $2 }
            $1 == "Test:" { test = $2 }
            /FAILED$/ && !/\[FAILED\]$/ { print "failed", suite, test }
            $1 == "tests" { print }' "$1"
    }
"#;

/// libiscsi's test suite over the SCSI generic driver; the second path is the same image behind a second
/// adapter.
fn iscsi_test_cu(context: &Context) -> Outcome {
    let image = context.qcow2("a.qcow2", 256)?;
    let script = format!(
        "{SUITE_SUMMARY}
        iscsi-test-cu --dataloss --test='SCSI.*' /dev/sda /dev/sdb >/tmp/suite 2>&1
        summary /tmp/suite\n"
    );
    let mut guest = guest(context, SCSI_MODULES, script)?.cpus(2).with(&[
        "-blockdev",
        &node("a", &image).to_string(),
        "-device",
        "virtio-scsi-pci,id=one",
        "-device",
        "virtio-scsi-pci,id=two",
        "-device",
        "scsi-hd,drive=a,bus=one.0,share-rw=on,max_unmap_size=512M",
        "-device",
        "scsi-hd,drive=a,bus=two.0,share-rw=on,max_unmap_size=512M",
    ]);
    guest.limit = std::time::Duration::from_secs(300);
    let ended = context.succeed(&guest)?;
    let failed: Vec<(&str, &str)> = ended
        .console
        .lines()
        .filter_map(|line| line.strip_prefix("failed ")?.trim().split_once(' '))
        .collect();
    let known: Vec<(&str, &str)> =
        SUITE_FAILURES.iter().map(|(suite, test, _)| (*suite, *test)).collect();
    require(failed == known, || {
        format!("the suite's failures are {failed:?}, not {known:?}:\n{}", ended.console)
    })?;
    check_qcow2(&image)
}
