//! What ATA drives keep, as hdparm and smartctl show and change it.

use spindle_tests::lab::guest::Disk;

use crate::cases::{Case, Context, Outcome, check_qcow2};
use crate::controllers::guest;

/// Cases of the group `ata-tools`.
pub const CASES: &[Case] = &[
    Case { name: "hdparm-on-ahci", run: hdparm_ahci },
    Case { name: "hdparm-on-ide", run: hdparm_ide },
    Case { name: "smartctl-on-ahci", run: smartctl_ahci },
    Case { name: "smartctl-on-ide", run: smartctl_ide },
];

const AHCI: &str = crate::ata::AHCI_MODULES;
const IDE: &str = "spindle.modules=ata_piix,sd_mod,sg";

/// Identity, passwords, an erase, the largest address, firmware, a sanitize operation.
const HDPARM: &str = r#"
    d=/dev/sda
    shows() { hdparm -I $d >/tmp/identity || exit 1; grep -Eq "$1" /tmp/identity; }
    fails() { cat /tmp/identity; exit $1; }
    shows 'Model Number: *SPINDLE HARDDISK' || fails 2
    shows 'Serial Number: *KEPT-1' || fails 3
    shows '^[[:space:]]*\*[[:space:]]*SMART feature set' || fails 4
    shows 'not[[:space:]]*enabled' || fails 5
    head -c 1048576 /dev/urandom | dd of=$d bs=64k oflag=direct || exit 6
    hdparm --user-master u --security-set-pass secret $d || exit 7
    shows 'not[[:space:]]*enabled' && fails 8
    # It says that it failed, and its status that it did not.
    hdparm --user-master u --security-disable wrong $d
    shows 'not[[:space:]]*enabled' && fails 9
    hdparm --user-master u --security-disable secret $d || exit 10
    shows 'not[[:space:]]*enabled' || fails 11
    hdparm --user-master u --security-set-pass secret $d || exit 12
    hdparm --user-master u --security-erase secret $d || exit 13
    shows 'not[[:space:]]*enabled' || fails 14
    dd if=$d bs=64k count=16 iflag=direct | tr -d '\0' | grep -q . && exit 15
    hdparm -N $d | grep '131072/131072' || exit 16
    hdparm -C $d | grep 'active/idle' || exit 17
    hdparm -y $d || exit 18
    hdparm -C $d | grep 'standby' || exit 19
    (printf 'spndlFW1REV2.0  \003\0\0\0' && head -c 1516 /dev/urandom) >/tmp/firmware
    yes='--yes-i-know-what-i-am-doing --please-destroy-my-drive'
    hdparm $yes --fwdownload /tmp/firmware $d || exit 20
    shows 'Firmware Revision: *REV2.0' || fails 21
    hdparm --sanitize-status $d || exit 22
    head -c 1048576 /dev/urandom | dd of=$d bs=64k oflag=direct || exit 23
    hdparm --yes-i-know-what-i-am-doing --sanitize-block-erase $d || exit 24
    tries=0
    until hdparm --sanitize-status $d | tee /tmp/status | grep -qi 'completed without error'; do
        tries=$((tries + 1))
        [ $tries -lt 50 ] || { cat /tmp/status; exit 25; }
        sleep 0.2
    done
    dd if=$d bs=64k count=16 iflag=direct | tr -d '\0' | grep -q . && exit 26
    hdparm --security-freeze $d || exit 27
    shows '^[[:space:]]*frozen' || fails 28
    true
"#;

/// Everything that smartctl reads, and tests.
const SMARTCTL: &str = r#"
    d=/dev/sda
    smartctl -a $d >/tmp/all || { cat /tmp/all; exit 1; }
    grep -q 'SMART overall-health self-assessment test result: PASSED' /tmp/all || { cat /tmp/all; exit 2; }
    grep -q 'Power_On_Hours' /tmp/all || { cat /tmp/all; exit 3; }
    grep -q 'No self-tests have been logged' /tmp/all || { cat /tmp/all; exit 4; }
    wait_for() {
        tries=0
        until smartctl -l selftest $d | tee /tmp/log | grep -E "^# 1 +$1.*Completed without error"; do
            tries=$((tries + 1))
            [ $tries -lt 100 ] || { cat /tmp/log; exit $2; }
            sleep 0.2
        done
    }
    smartctl -t short $d || exit 5
    wait_for 'Short offline' 6
    smartctl -t long $d || exit 7
    wait_for 'Extended offline' 8
    smartctl -C -t short $d
    wait_for 'Short captive' 9
    smartctl -t select,1000-2000 $d || exit 10
    wait_for 'Selective offline' 11
    smartctl -l selective $d | grep -E '1 +1000 +2000' || exit 12
    smartctl -x $d >/tmp/all || { cat /tmp/all; exit 13; }
    grep -q 'Device Statistics (GP Log 0x04)' /tmp/all || { cat /tmp/all; exit 14; }
    grep -q 'Logical Sectors Read' /tmp/all || { cat /tmp/all; exit 15; }
    grep -q 'SMART Extended Self-test Log Version: 1' /tmp/all || { cat /tmp/all; exit 16; }
    smartctl -o on $d
    smartctl -t offline $d || exit 17
    true
"#;

fn tool(context: &Context, modules: &str, controller: &str, script: &str) -> Outcome {
    let image = context.qcow2(&format!("kept-{controller}.qcow2"), 64)?;
    let disk = Disk::new(&image, "qcow2").with(&format!("controller={controller},serial=KEPT-1"));
    context.succeed(&guest(context, modules, script)?.disk(disk))?;
    check_qcow2(&image)
}

fn hdparm_ahci(context: &Context) -> Outcome {
    tool(context, AHCI, "ahci", HDPARM)
}

fn hdparm_ide(context: &Context) -> Outcome {
    tool(context, IDE, "ide", HDPARM)
}

fn smartctl_ahci(context: &Context) -> Outcome {
    tool(context, AHCI, "ahci", SMARTCTL)
}

fn smartctl_ide(context: &Context) -> Outcome {
    tool(context, IDE, "ide", SMARTCTL)
}
