use proptest::prelude::*;

use super::*;
use crate::error::FileRole;
use crate::memory_map::GIB;
use crate::synth::{self, SynthBzImage, SynthElf};

/// The message for a kernel with these bytes, with its path replaced by K, or "ok".
fn verdict(bytes: &[u8]) -> String {
    verdict_below(bytes, 4 * GIB)
}

fn verdict_below(bytes: &[u8], low_ram_end: u64) -> String {
    let file = synth::file(bytes);
    let result = Source::open(FileRole::Kernel, file.path())
        .and_then(|source| Kernel::inspect(&source)?.range(&source, low_ram_end));
    match result {
        Ok(_) => "ok".into(),
        Err(error) => {
            let message = error.to_string();
            let path = file.path().display().to_string();
            assert!(message.contains(&path), "{message:?} does not name {path}");
            message.replace(&path, "K")
        }
    }
}

fn bzimage(change: impl FnOnce(&mut SynthBzImage)) -> Vec<u8> {
    let mut image = SynthBzImage::default();
    change(&mut image);
    image.build()
}

fn elf(change: impl FnOnce(&mut SynthElf)) -> Vec<u8> {
    let mut image = SynthElf::default();
    change(&mut image);
    image.build()
}

#[test]
fn good_kernels_are_accepted() {
    assert_eq!(verdict(&bzimage(|_| {})), "ok");
    assert_eq!(verdict(&bzimage(|k| k.header.setup_sects = 0)), "ok");
    assert_eq!(verdict(&elf(|_| {})), "ok");
    assert_eq!(verdict(&SynthElf::without_pvh().build()), "ok");
}

#[test]
fn other_files_are_named_for_what_they_are() {
    let not = |saw: &str| {
        format!(
            "'K' is not a kernel that can be booted: it {saw}; \
             give a bzImage (vmlinuz) or an x86-64 ELF vmlinux"
        )
    };
    assert_eq!(verdict(b"\x1f\x8b\x08\0"), not("is gzip-compressed: unpack it first"));
    assert_eq!(verdict(b"QFI\xfb\0\0\0\x03"), not("is a qcow2 disk image: that goes to --disk"));
    assert_eq!(verdict(b"070701000000"), not("is a cpio archive: an initrd?"));
    assert_eq!(verdict(b"#!/bin/sh\n"), not("is a script"));
    assert_eq!(verdict(&[0; 4096]), not("begins with zeros"));
    assert_eq!(verdict(b"hi"), not("has 2 bytes"));
    assert_eq!(verdict(b"hello"), not("begins with the bytes 68 65 6c 6c"));
    let mut efi = b"MZ".to_vec();
    efi.resize(4096, 0);
    assert_eq!(verdict(&efi), not("is an EFI program without a Linux setup header"));
    efi[0x38..0x3C].copy_from_slice(b"ARM\x64");
    assert_eq!(verdict(&efi), not("is a kernel for arm64"));
    assert_eq!(verdict(b""), "kernel 'K' is empty");
}

#[test]
fn bzimages_that_cannot_be_booted_say_why() {
    let unsupported = |why: &str| format!("kernel 'K' cannot be booted: {why}");
    assert_eq!(
        verdict(&bzimage(|k| k.header.version = 0x0204)),
        unsupported(
            "it speaks boot protocol 2.04, and the 64-bit entry came with 2.12 (Linux 3.8)"
        )
    );
    assert_eq!(
        verdict(&bzimage(|k| k.header.loadflags = 0)),
        unsupported("it is a zImage, made to be loaded below 640 KiB")
    );
    assert_eq!(
        verdict(&bzimage(|k| k.header.xloadflags = 0x7E)),
        unsupported("it is a 32-bit kernel; give one built for x86-64")
    );
    assert_eq!(
        verdict(&bzimage(|k| k.header.boot_flag = 0)),
        "kernel 'K' is damaged: its boot flag is 0x0000, not 0xaa55"
    );
    assert_eq!(
        verdict(&bzimage(|k| k.header.kernel_alignment = 0)),
        "kernel 'K' is damaged: its preferred address 0x1000000 is not aligned to 0x0 as it asks \
         itself"
    );
    assert_eq!(
        verdict(&bzimage(|k| k.header.pref_address = !0x1F_FFFF)),
        "kernel 'K' does not fit: it needs memory up to 17592186044415 MiB, the machine's low \
         memory ends at 4096 MiB; give the machine more memory"
    );
    assert_eq!(
        verdict(&bzimage(|k| {
            k.header.pref_address = !0x1F_FFFF;
            k.header.init_size = 0x20_0000;
        })),
        "kernel 'K' is damaged: its preferred address 0xffffffffffe00000 is beyond any memory"
    );
}

#[test]
fn a_kernel_larger_than_low_memory_says_what_it_needs() {
    let image = bzimage(|k| k.header.init_size = 0x3F9_8000);
    assert_eq!(
        verdict_below(&image, 64 << 20),
        "kernel 'K' does not fit: it needs memory up to 79.6 MiB, the machine's low memory ends \
         at 64 MiB; give the machine more memory"
    );
    assert_eq!(verdict_below(&image, 0x4F9_8000), "ok");
    assert!(verdict_below(&image, 0x4F9_7FFF).contains("does not fit"));
}

#[test]
fn a_header_from_an_older_protocol_ends_where_it_says() {
    let file = synth::file(&bzimage(|k| k.header_end = 0x62));
    let source = Source::open(FileRole::Kernel, file.path()).unwrap();
    let header = Kernel::inspect(&source).unwrap().header();
    // init_size, at 0x260, is the last field before 0x264; handover_offset is after it.
    assert_eq!({ header.init_size }, 0x10_0000);
    assert_eq!({ header.handover_offset }, 0);
    let file = synth::file(&bzimage(|k| {
        k.header_end = 0x5E;
        k.header.handover_offset = 0x90;
    }));
    let source = Source::open(FileRole::Kernel, file.path()).unwrap();
    let header = Kernel::inspect(&source).unwrap().header();
    assert_eq!(({ header.init_size }, { header.handover_offset }), (0, 0));
    assert_eq!({ header.pref_address }, 0x100_0000);
}

#[test]
fn every_cut_of_a_kernel_is_noticed() {
    for whole in [bzimage(|_| {}), elf(|_| {})] {
        for len in (1..0x300).chain((0x300..whole.len()).step_by(61)).chain([whole.len() - 1]) {
            assert_ne!(verdict(&whole[..len]), "ok", "cut to {len} of {} bytes", whole.len());
        }
    }
    let whole = bzimage(|_| {});
    assert_eq!(
        verdict(&whole[..whole.len() - 1]),
        "kernel 'K' is truncated: the compressed kernel ends at byte 14336, the file at 14335"
    );
    assert_eq!(
        verdict(&whole[..0x210]),
        "kernel 'K' is truncated: the setup header ends at byte 620, the file at 528"
    );
    let whole = elf(|_| {});
    assert_eq!(
        verdict(&whole[..0x3000]),
        "kernel 'K' is truncated: a segment ends at byte 14336, the file at 12288"
    );
    assert_eq!(
        verdict(&whole[..100]),
        "kernel 'K' is truncated: the program header table ends at byte 232, the file at 100"
    );
}

#[test]
fn elf_files_that_cannot_be_booted_say_why() {
    let unsupported = |why: &str| format!("kernel 'K' cannot be booted: {why}");
    assert_eq!(
        verdict(&elf(|k| k.header.class = 1)),
        unsupported("it is a 32-bit ELF file; give a kernel built for x86-64")
    );
    assert_eq!(
        verdict(&elf(|k| k.header.machine = 183.into())),
        unsupported("it is an ELF file for another architecture than x86-64")
    );
    assert_eq!(
        verdict(&elf(|k| k.header.kind = 1.into())),
        unsupported("it is an ELF object file or core dump, not an executable")
    );
    assert_eq!(
        verdict(&elf(|k| k.segments[0].physical_address = 0x1000.into())),
        unsupported("its segment at 0x1000 would lie below 1 MiB")
    );
}

#[test]
fn elf_headers_that_contradict_themselves_are_refused() {
    let damaged = |why: &str| format!("kernel 'K' is damaged: {why}");
    assert_eq!(
        verdict(&elf(|k| k.header.program_header_size = 32.into())),
        damaged("its program headers are 32 bytes long")
    );
    for count in [0, 129, u16::MAX] {
        assert_eq!(
            verdict(&elf(|k| k.header.program_header_count = count.into())),
            damaged(&format!("it has {count} program headers"))
        );
    }
    assert_eq!(
        verdict(&elf(|k| k.header.program_headers = u64::MAX.into())),
        damaged("the program header table is said to be at offset 0xffffffffffffffff of the file")
    );
    assert_eq!(
        verdict(&elf(|k| k.segments[1].memory_size = 0x7FF.into())),
        damaged("its segment at 0x1200000 has 0x800 bytes for 0x7ff of memory")
    );
    assert_eq!(
        verdict(&elf(|k| k.segments[1].physical_address = (u64::MAX - 0x800).into())),
        damaged("its segment at 0xfffffffffffff7ff ends beyond any memory")
    );
    assert_eq!(
        verdict(&elf(|k| k.segments[0].memory_size = 0x20_0001.into())),
        damaged("its segments at 0x1000000 and 0x1200000 overlap")
    );
    assert_eq!(
        verdict(&elf(|k| k.notes = vec![0; 70_000])),
        damaged("its notes are 70000 bytes long")
    );
    assert_eq!(
        verdict(&elf(|k| k.segments.iter_mut().for_each(|s| s.kind = 0.into()))),
        damaged("it has nothing to load")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_bytes_are_never_a_kernel(bytes in proptest::collection::vec(any::<u8>(), 1..2048)) {
        prop_assert_ne!(verdict(&bytes), "ok");
    }
}
