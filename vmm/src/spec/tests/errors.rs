//! What is wrong is said with its name, and with what was probably meant.
use super::error;

#[test]
fn errors_name_the_part_and_what_is_near() {
    let cases: &[(String, &[&str])] = &[
        (error(&["a.raw,quues=2"], &[], &[], &[]), &["--disk", "'quues'", "did you mean 'queues'"]),
        (error(&["a.raw,cache=writeboth"], &[], &[], &[]), &["cache", "did you mean 'writeback'"]),
        (error(&["a.raw,controller=nvmee"], &[], &[], &[]), &["controller", "'nvme'"]),
        (
            error(&["a.raw,controller=nvme,target=1"], &[], &[], &[]),
            &["target", "controller=nvme has none"],
        ),
        (
            error(&["a.raw,controller=nvme,logical-block-size=1k"], &[], &[], &[]),
            &["device 'disk0'", "512 or 4096"],
        ),
        (error(&["a.raw,state=x"], &[], &[], &[]), &["state", "controller=virtio-blk has none"]),
        (
            error(
                &[
                    "a.raw,controller=virtio-scsi,target=3,lun=0",
                    "b.raw,controller=virtio-scsi,target=3,lun=0",
                ],
                &[],
                &[],
                &[],
            ),
            &["target 3, lun 0 of 'scsi0' is taken by 'disk"],
        ),
        (
            error(&[], &["null,node-name=n"], &[], &["scsi-hd,drive=n,id=d"]),
            &["device 'd'", "no virtio-scsi-pci before it"],
        ),
        (
            error(
                &[],
                &["null,node-name=n"],
                &[],
                &["virtio-scsi-pci,id=a", "scsi-hd,drive=n,id=d,bus=b.0"],
            ),
            &["device 'd'", "no virtio-scsi-pci has a bus 'b.0'"],
        ),
        (
            error(&["a.raw,controller=sd,queues=2"], &[], &[], &[]),
            &["queues", "controller=sd has none"],
        ),
        (error(&[], &[], &[], &["sd-card,drive=n"]), &["no sdhci-pci before it"]),
        (
            error(
                &[],
                &["null,node-name=n", "null,node-name=m"],
                &[],
                &["sdhci-pci,id=h", "sd-card,id=a,drive=n", "emmc,id=b,drive=m"],
            ),
            &["device 'a'", "the slot of 'h' is taken by 'b'"],
        ),
        (error(&[], &[], &[], &["nvme-ns,drive=n"]), &["no nvme controller before it"]),
        (
            error(
                &[],
                &["null,node-name=n", "null,node-name=m"],
                &[],
                &["nvme,id=c,drive=n", "nvme-ns,drive=m,id=d,nsid=1"],
            ),
            &["device 'd'", "namespace 1 of 'c' is taken by 'c'"],
        ),
        (error(&[], &[], &[], &["nvme,id=c,subsys=s"]), &["device 'c'", "no nvme-subsys 's'"]),
        (
            error(&[], &[], &[], &["nvme,id=c,max_ioqpairs=4,msix_qsize=4"]),
            &["device 'c'", "msix_qsize=4 is too few", "give it 5"],
        ),
        (
            error(&[], &[], &[], &["virtio-scsi-pci,id=a,num_queues=4,vectors=6"]),
            &["device 'a'", "vectors=6 is too few", "give it 7"],
        ),
        (
            error(
                &[],
                &["null,node-name=n"],
                &[],
                &["nvme,id=c", "nvme-ns,id=d,drive=n,uuid=not-one"],
            ),
            &["device 'd'", "uuid", "'not-one' is not a UUID"],
        ),
        (error(&[], &[], &[], &["nvme,id=c,pool=/tmp"]), &["device 'c'", "pool and pool-size"]),
        (error(&[], &[], &[], &["nvme,id=c,pci-id=8086"]), &["pci-id", "VVVV:DDDD"]),
        (
            error(&[], &[], &[], &["nvme,id=a,addr=5", "virtio-scsi-pci,id=b,addr=05.0"]),
            &["device 'b'", "PCI address 05.0 is taken by 'a'"],
        ),
        (error(&["missing.raw"], &[], &[], &[]), &["missing.raw"]),
        (error(&["a.img"], &[], &[], &[]), &["a.img", "format=raw"]),
        (
            error(&[], &["qcow3,node-name=a"], &[], &[]),
            &["driver", "did you mean 'qcow' or 'qcow2'"],
        ),
        (error(&[], &["raw,node-name=a,fiel=b"], &[], &[]), &["'fiel'", "did you mean 'file'"]),
        (error(&[], &["raw,node-name=a,file=b"], &[], &[]), &["node 'a'", "no node 'b'"]),
        (error(&[], &["null-co"], &[], &[]), &["'node-name' is missing"]),
        (error(&[], &["null,node-name=a,size=x"], &[], &[]), &["size", "'x' is not a size"]),
        (error(&[], &[], &["iothred,id=a"], &[]), &["qom-type", "did you mean 'iothread'"]),
        (error(&[], &[], &[], &["virtio-blk,drive=a"]), &["did you mean 'virtio-blk-pci'"]),
        (
            error(&[], &[], &[], &["virtio-blk-pci,logical-block-size=4k"]),
            &["device 'virtio-blk-pci'", "did you mean 'logical_block_size'"],
        ),
        (error(&[], &[], &[], &["virtio-blk-pci,num-queues=2"]), &["'drive' is missing"]),
        (error(&[], &[], &[], &["virtio-blk-pci,drive=x"]), &["no node 'x'"]),
        (error(&["a.raw,id=x", "b.raw,id=x"], &[], &[], &[]), &["called 'x'"]),
        (
            error(&["a.raw"], &[], &[], &["virtio-blk-pci,drive=disk0"]),
            &["node 'disk0' is used by device 'disk0' and by device"],
        ),
        (
            error(&["a.raw,logical-block-size=1000"], &[], &[], &[]),
            &["logical-block-size", "power of two"],
        ),
        (error(&["a.raw,serial=123456789012345678901"], &[], &[], &[]), &["serial", "at most 20"]),
        (
            error(&[], &["null,node-name=n"], &[], &["virtio-blk-pci,drive=n,iothread=io"]),
            &["no iothread 'io'"],
        ),
        (
            error(
                &[],
                &["null,node-name=n"],
                &["iothread,id=io"],
                &["virtio-blk-pci,drive=n,num-queues=3,iothread-vq-mapping.0.iothread=io,\
                   iothread-vq-mapping.0.vqs.0=0"],
            ),
            &["iothread-vq-mapping", "0 to 2"],
        ),
        (
            error(
                &[],
                &["null,node-name=n"],
                &[],
                &["virtio-blk-pci,drive=n,id=d,num-queues=4,vectors=4"],
            ),
            &["device 'd'", "vectors=4 is too few", "give it 5"],
        ),
    ];
    for (message, wanted) in cases {
        for part in *wanted {
            assert!(message.contains(part), "'{part}' not in: {message}");
        }
    }
}
