//! Controllers, and what finds its place behind them.
use super::*;

#[test]
fn short_disks_are_behind_the_controller_they_name() {
    let short = lower(
        &["a.raw,controller=nvme,queues=4,iothread=io,serial=S1,queue-size=64,state=none"],
        &[],
        &[],
        &[],
    );
    let node = "raw,node-name=disk0,discard=unmap,file.driver=file,file.filename=a.raw";
    let long = lower(
        &[],
        &[node],
        &["iothread,id=io"],
        &["nvme,id=disk0,drive=disk0,max_ioqpairs=4,mqes=63,iothread=io,serial=S1,state=none"],
    );
    assert_eq!(short, long);
    let one = |id: &str, spec: &MachineSpec| match spec.device(id) {
        Some(DeviceSpec::ScsiHd(disk)) => {
            (disk.place.adapter().to_owned(), disk.place.address().0, disk.place.address().1)
        }
        other => panic!("{id}: {other:?}"),
    };
    let at = |adapter: &str, target, lun| (adapter.to_owned(), target, lun);
    let spec = lower(
        &[
            "a.raw,controller=virtio-scsi",
            "b.raw,controller=virtio-scsi,lun=5",
            "c.raw,controller=virtio-scsi,target=0",
            "d.raw,controller=virtio-scsi,queues=3",
            "e.raw,controller=virtio-scsi",
        ],
        &[],
        &[],
        &["virtio-scsi-pci,id=scsi1", "scsi-cd,id=cd"],
    );
    assert_eq!(one("disk0", &spec), at("scsi0", 0, 0));
    assert_eq!(one("disk1", &spec), at("scsi0", 0, 5));
    assert_eq!(one("disk2", &spec), at("scsi0", 0, 1));
    assert_eq!(one("disk3", &spec), at("scsi2", 0, 0), "queues of its own, a name nobody has");
    assert_eq!(one("disk4", &spec), at("scsi0", 1, 0));
    match spec.device("cd") {
        Some(DeviceSpec::ScsiCd(drive)) => {
            assert_eq!((drive.place.adapter(), drive.place.address()), ("scsi0", (2, 0)));
            assert_eq!(drive.drive, None);
        }
        other => panic!("{other:?}"),
    }
    // Controllers have an iothread each, disks behind them none.
    let queues = |id: &str| spec.device(id).unwrap().kind().queues();
    assert_eq!(queues("scsi0").unwrap().iothread, Some("iothread0"));
    assert_eq!(queues("scsi2").unwrap().count, 3);
    assert!(queues("disk0").is_none());
    assert_eq!(again(&spec), spec);
}

#[test]
fn each_card_has_a_controller_of_its_own() {
    let spec = lower(
        &["a.raw,controller=sd,iothread=io", "b.raw,controller=emmc,state=none,serial=7"],
        &["raw,node-name=n,file.driver=file,file.filename=c.raw"],
        &["iothread,id=io"],
        &["sdhci-pci,id=old,spec-version=1", "sd-card,id=card,drive=n,bus=sd-bus"],
    );
    let bus = |id: &str| match spec.device(id) {
        Some(DeviceSpec::SdCard(sd)) => sd.card.controller().to_owned(),
        Some(DeviceSpec::Emmc(emmc)) => emmc.card.controller().to_owned(),
        other => panic!("{id}: {other:?}"),
    };
    assert_eq!((bus("disk0"), bus("disk1")), ("sdhci0".to_owned(), "sdhci1".to_owned()));
    assert_eq!(bus("card"), "old", "the one that is free");
    let queues = |id: &str| spec.device(id).unwrap().kind().queues().unwrap();
    assert_eq!((queues("sdhci0").count, queues("sdhci0").iothread), (1, Some("io")));
    match spec.device("disk1") {
        Some(DeviceSpec::Emmc(emmc)) => assert_eq!(emmc.card.serial_number(), 7),
        other => panic!("{other:?}"),
    }
    assert_eq!(again(&spec), spec);
}

#[test]
fn a_cdrom_is_a_drive_that_is_not_written() {
    let disks = ["a.iso,controller=virtio-scsi,media=cdrom", "b.raw,controller=virtio-scsi"];
    let spec = lower(&disks, &[], &[], &[]);
    match spec.device("disk0") {
        Some(DeviceSpec::ScsiCd(drive)) => {
            assert_eq!(drive.drive.as_deref(), Some("disk0"));
            assert_eq!((drive.place.adapter(), drive.place.address()), ("scsi0", (0, 0)));
        }
        other => panic!("{other:?}"),
    }
    assert!(spec.node("disk0").unwrap().read_only && spec.node("disk0.file").unwrap().read_only);
    assert!(!spec.node("disk1").unwrap().read_only);
    assert_eq!(again(&spec), spec);
    let message = error(&["a.iso,media=cdrom"], &[], &[], &[]);
    assert!(message.contains("media: a disk with controller=virtio-blk has none"), "{message}");
}

#[test]
fn namespaces_get_the_lowest_ids_that_are_free() {
    let nodes = ["a", "b", "c", "d"].map(|name| format!("null,node-name={name}"));
    let spec = lower(
        &[],
        &nodes.each_ref().map(|node| &**node),
        &[],
        &[
            "nvme-subsys,id=s",
            "nvme,id=x,subsys=s,drive=a",
            "nvme,id=y,subsys=s",
            "nvme-ns,id=n,drive=b,bus=y",
            "nvme-ns,id=m,drive=c,nsid=7,eui64=0x1122334455667788",
            "nvme,id=z",
            "nvme-ns,id=o,drive=d,bus=z",
        ],
    );
    let nsid = |id: &str| match spec.device(id) {
        Some(DeviceSpec::NvmeNs(ns)) => (ns.bus.clone().unwrap(), ns.nsid),
        other => panic!("{id}: {other:?}"),
    };
    assert_eq!(nsid("n"), ("y".to_owned(), 2), "1 is taken in the subsystem");
    assert_eq!(nsid("m"), ("x".to_owned(), 7));
    assert_eq!(nsid("o"), ("z".to_owned(), 1));
    assert_eq!(again(&spec), spec);
    assert_eq!(device::hex_bytes::<2>("a-b-c-d"), Ok(Some([0xab, 0xcd])));
    assert_eq!(device::hex_bytes::<2>("auto"), Ok(None));
    assert!(device::hex_bytes::<2>("abc").is_err() && device::hex_bytes::<2>("abcg").is_err());
    assert_eq!(device::pci_id("1af4:10F0"), Some((0x1AF4, 0x10F0)));
    assert!(
        ["", "1af4", "1af4:", "x:1", "ffff:1", "1:0"].iter().all(|t| device::pci_id(t).is_none())
    );
}
