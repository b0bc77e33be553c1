//! Processors, memory, kernels, reboots.

use std::time::Duration;

use spindle_tests::lab::guest::{Disk, Guest, Vmm};
use spindle_tests::lab::image::Image;
use spindle_tests::lab::job::Job;

use crate::cases::{Case, Context, Outcome, require};

/// Cases of the group `boot`.
pub const CASES: &[Case] = &[
    Case { name: "cpus-1", run: |context| cpus(context, 1) },
    Case { name: "cpus-2", run: |context| cpus(context, 2) },
    Case { name: "cpus-4", run: |context| cpus(context, 4) },
    Case { name: "bzimage", run: bzimage },
    Case { name: "memory-112-mib", run: memory_small },
    Case { name: "memory-beyond-4-gib", run: memory_large },
];

/// Cases of the group `reboot`.
pub const REBOOTS: &[Case] = &[Case { name: "reboot-20-times", run: reboots }];

/// Fails unless the machine is what a KVM guest expects.
const MACHINE: &str = r#"
set -e
grep -q x2apic /proc/cpuinfo
[ "$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)" != jiffies ]
grep -q kvm-clock /sys/devices/system/clocksource/clocksource0/available_clocksource
grep -q tsc_deadline_timer /proc/cpuinfo
"#;

fn cpus(context: &Context, count: u32) -> Outcome {
    let script = format!("{MACHINE}\nnproc\n[ \"$(nproc)\" = {count} ]\n");
    let guest = Guest::initramfs(context.vmm.clone(), Job::new(script))?.cpus(count);
    context.succeed(&guest).map(drop)
}

fn bzimage(context: &Context) -> Outcome {
    let image = Image::build("guest")?;
    // virtio-rng as well: the kernel names the source it feeds on.
    let script = "set -e\n\
        grep -q virtio_rng /sys/class/misc/hw_random/rng_current\n\
        [ \"$(head -c 64 /dev/hwrng | wc -c)\" = 64 ]\n";
    let mut guest = Guest::initramfs(context.vmm.clone(), Job::new(script))?
        .with(&["-device", "virtio-rng-pci"]);
    guest.kernel = image.file("vmlinuz");
    context.succeed(&guest).map(drop)
}

/// Debian's kernel ends 74 MiB above the start of memory: it starts in little more, and in less it is refused
/// in words.
fn memory_small(context: &Context) -> Outcome {
    let image = Image::build("guest")?;
    let mut guest = Guest::initramfs(context.vmm.clone(), Job::new("free"))?;
    guest.initrd = Some(image.file("tiny.cpio"));
    guest.append = String::new();
    guest.memory_mib = 112;
    context.succeed(&guest)?;
    if context.vmm == Vmm::Qemu {
        return Ok(());
    }
    guest.memory_mib = 64;
    let refused = context.start(&guest)?.finish()?;
    require(refused.status == Some(1) && refused.stderr.contains("memory"), || {
        format!("64 MiB: status {:?}, standard error:\n{}", refused.status, refused.stderr)
    })
}

fn memory_large(context: &Context) -> Outcome {
    let script = r#"
        set -e
        size=$(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo)
        echo "MemTotal $size"
        [ "$size" -gt 4300000 ]
        grep -qi '^ *1[0-9a-f]\{8\}-.*System RAM' /proc/iomem
    "#;
    let mut guest = Guest::initramfs(context.vmm.clone(), Job::new(script))?;
    guest.memory_mib = 4608;
    context.succeed(&guest).map(drop)
}

/// Twenty reboots by turns through ACPI, the keyboard controller, CF9 and a triple fault. The disk counts.
fn reboots(context: &Context) -> Outcome {
    let script = r#"
        [ -b /dev/vda ] || exit 2
        count=$(dd if=/dev/vda bs=512 count=1 2>/dev/null | tr -d '\0')
        count=${count:-0}
        echo "boot $count"
        [ $count -lt 20 ] || exit 0
        echo $((count + 1)) | dd of=/dev/vda bs=512 conv=fsync,sync 2>/dev/null || exit 1
        case $((count % 4)) in
        0) type=acpi ;;
        1) type=kbd ;;
        2) type=pci ;;
        3) type=triple ;;
        esac
        echo "resetting by $type"
        echo $type >/sys/kernel/reboot/type || exit 1
        reboot -f
        sleep 60
    "#;
    let disk = context.raw("count.raw", 1)?;
    let mut guest =
        Guest::initramfs(context.vmm.clone(), Job::new(script))?.disk(Disk::new(disk, "raw"));
    guest.initrd = Some(Image::build("guest")?.file("boot.cpio"));
    guest.append = "spindle.modules=virtio_pci,virtio_blk".to_owned();
    guest.reboots = true;
    guest.limit = Duration::from_secs(400);
    // Each boot is silent until its count.
    guest.silence = Duration::from_secs(60);
    let ended = context.succeed(&guest)?;
    let boots: Vec<&str> = ended.console.lines().filter(|line| line.starts_with("boot ")).collect();
    let wanted: Vec<String> = (0..=20).map(|count| format!("boot {count}")).collect();
    require(boots == wanted, || format!("the boots were {boots:?}"))
}
