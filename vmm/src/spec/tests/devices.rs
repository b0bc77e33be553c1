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

#[test]
fn disks_behind_ahci_share_a_controller_port_by_port() {
    let disks: Vec<String> = (0..7).map(|i| format!("{i}.raw,controller=ahci")).collect();
    let mut disks: Vec<&str> = disks.iter().map(|disk| &**disk).collect();
    disks[1] = "b.raw,controller=ahci,port=4";
    disks.push("a.iso,controller=ahci,media=cdrom");
    let spec = lower(&disks, &[], &[], &[]);
    let bus = |id: &str| match spec.device(id) {
        Some(DeviceSpec::IdeHd(disk)) => disk.place.bus.clone().unwrap(),
        Some(DeviceSpec::IdeCd(drive)) => drive.place.bus.clone().unwrap(),
        other => panic!("{id}: {other:?}"),
    };
    let expected = ["0.0", "0.4", "0.1", "0.2", "0.3", "0.5", "1.0", "1.1"];
    for (i, at) in expected.iter().enumerate() {
        assert_eq!(bus(&format!("disk{i}")), format!("ahci{at}"));
    }
    // The first is where the chipset has it.
    let addr = |id: &str| spec.device(id).unwrap().addr().map(String::from);
    assert_eq!((addr("ahci0").as_deref(), addr("ahci1")), (Some("1f.2"), None));
    let queues = spec.device("ahci0").unwrap().kind().queues().unwrap();
    assert_eq!((queues.count, queues.iothread), (6, Some("iothread0")));
    assert_eq!(again(&spec), spec);
}

#[test]
fn ports_that_are_not_there_or_taken() {
    let nodes = ["null,node-name=a", "null,node-name=b"];
    let message = |devices: &[&str]| error(&[], &nodes, &[], devices);
    let two = ["ich9-ahci,id=x", "ide-hd,id=d,drive=a,bus=x.1", "ide-hd,id=e,drive=b,bus=x.1"];
    assert!(message(&two).contains("device 'd': bus: 'x.1' is taken by 'e'"), "{}", message(&two));
    let none = ["ich9-ahci,id=x,ports=2", "ide-hd,drive=a,bus=x.2"];
    assert!(message(&none).contains("they are x.0 to x.1"), "{}", message(&none));
    let slave = ["ich9-ahci,id=x", "ide-hd,drive=a,bus=x.1,unit=1"];
    assert!(message(&slave).contains("one drive, unit 0"), "{}", message(&slave));
    let nobody = ["ide-hd,drive=a"];
    assert!(message(&nobody).contains("no ich9-ahci"), "{}", message(&nobody));
    let odd = ["ich9-ahci", "ide-hd,drive=a,logical_block_size=1024"];
    assert!(message(&odd).contains("neither 512 nor 4096"), "{}", message(&odd));
    let message = error(&["a.raw,controller=ahci,queues=2"], &[], &[], &[]);
    assert!(message.contains("queues: a disk with controller=ahci has none"), "{message}");
    let message = error(&["a.raw,port=2"], &[], &[], &[]);
    assert!(message.contains("port: a disk with controller=virtio-blk has none"), "{message}");
}

#[test]
fn disks_behind_ide_share_two_cables() {
    let spec = lower(
        &[
            "a.raw,controller=ide,model=piix4,geometry=100/16/63",
            "b.raw,controller=ide,port=1,unit=1",
            "c.iso,controller=ide,media=cdrom",
            "d.raw,controller=ide",
        ],
        &[],
        &[],
        &[],
    );
    let place = |id: &str| match spec.device(id) {
        Some(DeviceSpec::IdeHd(disk)) => (disk.place.bus.clone().unwrap(), disk.place.unit),
        Some(DeviceSpec::IdeCd(drive)) => (drive.place.bus.clone().unwrap(), drive.place.unit),
        other => panic!("{id}: {other:?}"),
    };
    let expected = [("ide.0", 0), ("ide.1", 1), ("ide.0", 1), ("ide.1", 0)];
    for (i, (bus, unit)) in expected.iter().enumerate() {
        assert_eq!(place(&format!("disk{i}")), ((*bus).to_owned(), *unit));
    }
    assert!(matches!(spec.device("ide"), Some(DeviceSpec::Piix4Ide(_))));
    let addr = spec.device("ide").unwrap().addr().map(String::from);
    assert_eq!(addr.as_deref(), Some("01.1"));
    let queues = spec.device("ide").unwrap().kind().queues().unwrap();
    assert_eq!((queues.count, queues.iothread), (2, Some("iothread0")));
    match spec.device("disk0") {
        Some(DeviceSpec::IdeHd(disk)) => {
            assert_eq!((disk.cyls, disk.heads, disk.secs), (100, 16, 63));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(again(&spec), spec);
}

#[test]
fn cables_that_are_full_and_controllers_that_are_there() {
    let five: Vec<String> = (0..5).map(|i| format!("{i}.raw,controller=ide")).collect();
    let five: Vec<&str> = five.iter().map(|disk| &**disk).collect();
    let message = error(&five, &[], &[], &[]);
    assert!(message.contains("all places of 'ide' are taken"), "{message}");
    let twice = ["a.raw,controller=ide", "b.raw,controller=ide,port=0"];
    let message = error(&twice, &[], &[], &[]);
    assert!(message.contains("unit 0 of 'ide.0' is taken by"), "{message}");
    let message =
        error(&["a.raw,controller=ide", "b.raw,controller=ide,model=piix4"], &[], &[], &[]);
    assert!(message.contains("there is one controller, 'piix3-ide'"), "{message}");
    let message = error(&["a.raw,controller=ide,geometry=1/2"], &[], &[], &[]);
    assert!(message.contains("is not CYLINDERS/HEADS/SECTORS"), "{message}");
    let message = error(&[], &[], &[], &["piix3-ide", "piix4-ide"]);
    assert!(message.contains("has the legacy ports already"), "{message}");
    let message = error(&[], &[], &[], &["piix3-ide,addr=05.0"]);
    assert!(message.contains("at 01.1"), "{message}");
}
