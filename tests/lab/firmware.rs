//! SeaBIOS: its drivers, written by others, read from every controller, and a Linux that it starts finds the
//! machine that the tables promise.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use spindle_tests::lab::LabError;
use spindle_tests::lab::guest::{GuestError, Vmm};
use spindle_tests::lab::image::Image;

use crate::cases::{Case, Context, Outcome, require, text, tool};

/// Cases of the group.
pub const CASES: &[Case] = &[
    Case { name: "firmware-virtio", run: |c| disks(c, &["virtio-blk", "virtio-scsi"]) },
    Case { name: "firmware-nvme", run: |c| disks(c, &["nvme"]) },
    Case { name: "firmware-ata", run: |c| disks(c, &["ahci", "ide"]) },
    Case { name: "firmware-sd", run: |c| disks(c, &["sd", "emmc"]) },
    Case { name: "firmware-cd", run: cds },
    Case { name: "firmware-linux", run: linux },
];

/// Debian's SeaBIOS, by the name that is looked for in the places of packages.
const BIOS: &str = "bios-256k.bin";
/// What the boot sector ends the program with.
const READ: i32 = 42;
const LIMIT: Duration = Duration::from_secs(90);

/// The boot loader that Debian's packages `isolinux` and `syslinux-common` bring.
const ISOLINUX: &str = "isolinux.bin";

/// Where the boot program's source is: tests run in the checkout that they were built from.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/lab/boot_sector.s");

/// The boot program, that reads this block.
fn boot_sector(context: &Context, lba: u64) -> Result<Vec<u8>, GuestError> {
    let (object, binary) = (context.work.join("boot.o"), context.work.join("boot.bin"));
    let block = format!("LBA={lba}");
    tool("as", &["--32", "--defsym", &block, "-o", &text(&object), SOURCE])?;
    tool("objcopy", &["-O", "binary", "-j", ".text", &text(&object), &text(&binary)])?;
    Ok(fs::read(&binary).map_err(LabError::file("read", &binary))?)
}

/// Starts spindle with SeaBIOS and these options; returns its exit status and what its console said.
fn run(context: &Context, options: &[&str]) -> Result<(Option<i32>, String), GuestError> {
    let Vmm::Spindle(program) = &context.vmm else {
        return Err(GuestError::Failed("these cases are for spindle".to_owned()));
    };
    context.boots.set(context.boots.get() + 1);
    let limit = LIMIT.as_secs().to_string();
    let output = Command::new("timeout")
        .arg(limit)
        .arg(program)
        .args(["run", "--bios", BIOS, "--debug-exit", "--memory", "256"])
        .args(options)
        .output()
        .map_err(|source| LabError::Start { program: text(program), source })?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.code(), said))
}

/// Requires that the boot program ran and read what is expected, after a reset.
fn reads(context: &Context, options: &[&str], expected: &str) -> Outcome {
    let (status, said) = run(context, options)?;
    require(status == Some(READ) && said.contains(expected), || {
        format!("{options:?}: status {status:?}, no '{expected}' in:\n{said}")
    })?;
    let starts = said.matches("SeaBIOS (version").count();
    require(starts == 2, || format!("{options:?}: SeaBIOS started {starts} times:\n{said}"))
}

/// A boot sector, and another that it reads, through each controller: from raw, and from qcow2.
fn disks(context: &Context, controllers: &[&str]) -> Outcome {
    let boot = boot_sector(context, 1)?;
    for controller in controllers {
        let message = format!("sector one of {controller}\r\n");
        let raw = context.raw(&format!("{controller}.raw"), 4)?;
        let mut content = boot.clone();
        content.extend(message.bytes());
        content.resize(4 << 20, 0);
        fs::write(&raw, content).map_err(LabError::file("write", &raw))?;
        let qcow2 = context.work.join(format!("{controller}.qcow2"));
        tool("qemu-img", &["convert", "-O", "qcow2", &text(&raw), &text(&qcow2)])?;
        for (image, format) in [(&raw, "raw"), (&qcow2, "qcow2")] {
            let disk = format!("{},format={format},controller={controller}", text(image));
            reads(context, &["--disk", &disk], message.trim_end())?;
        }
    }
    Ok(())
}

/// An image that firmware boots from a CD (El Torito, without emulation), of the files in `content`.
fn iso(context: &Context, name: &str, boot: &str, content: &Path) -> Result<PathBuf, GuestError> {
    let image = context.work.join(name);
    let (to, from) = (text(&image), text(content));
    let mut words = vec!["-as", "mkisofs", "-quiet", "-o", &to, "-b", boot, "-c", "boot.cat"];
    words.extend(["-no-emul-boot", "-boot-load-size", "4"]);
    if boot == ISOLINUX {
        // It wants its own place written into it.
        words.push("-boot-info-table");
    }
    words.push(&from);
    tool("xorriso", &words)?;
    Ok(image)
}

/// The volume descriptor is block 16 of a CD; its identifier is printed.
fn cds(context: &Context) -> Outcome {
    let content = context.work.join("cd");
    fs::create_dir_all(&content).map_err(LabError::file("create", &content))?;
    let mut boot = boot_sector(context, 16)?;
    boot.resize(2048, 0);
    let file = content.join("boot.bin");
    fs::write(&file, boot).map_err(LabError::file("write", &file))?;
    let image = text(&iso(context, "boot.iso", "boot.bin", &content)?);
    let drive =
        |controller: &str| format!("{image},format=raw,media=cdrom,controller={controller}");
    reads(context, &["--cdrom", &image], "CD001")?;
    reads(context, &["--disk", &drive("ahci")], "CD001")?;
    reads(context, &["--disk", &drive("ide")], "CD001")
}

/// Debian's kernel by ISOLINUX from a CD: two CPUs, and ACPI to power off.
fn linux(context: &Context) -> Outcome {
    let guest = Image::build("guest")?;
    let content = context.work.join("linux");
    fs::create_dir_all(&content).map_err(LabError::file("create", &content))?;
    for (from, name) in [
        (PathBuf::from("/usr/lib/ISOLINUX/isolinux.bin"), ISOLINUX),
        (PathBuf::from("/usr/lib/syslinux/modules/bios/ldlinux.c32"), "ldlinux.c32"),
        (guest.file("vmlinuz"), "vmlinuz"),
        (guest.file("tiny.cpio"), "initrd"),
    ] {
        tool("cp", &[&text(&from), &text(&content.join(name))])?;
    }
    let menu = content.join("isolinux.cfg");
    let entry = "serial 0 115200\ndefault linux\nprompt 0\nlabel linux\nkernel /vmlinuz\n\
                 append initrd=/initrd console=ttyS0 pci=noearly\n";
    fs::write(&menu, entry).map_err(LabError::file("write", &menu))?;
    let image = iso(context, "linux.iso", ISOLINUX, &content)?;
    let disk = format!("{},format=raw,media=cdrom,controller=ahci", text(&image));
    let (status, said) = run(context, &["--disk", &disk, "--cpus", "2"])?;
    for sign in ["smp: Brought up 1 node, 2 CPUs", "ACPI: PM: (supports S0 S5)", "Power down"] {
        require(said.contains(sign), || format!("no '{sign}' in:\n{said}"))?;
    }
    for error in ["ACPI Error", "ACPI BIOS Error", "can't claim BAR"] {
        require(!said.contains(error), || format!("'{error}' in:\n{said}"))?;
    }
    require(status == Some(0), || format!("status {status:?}:\n{said}"))
}
