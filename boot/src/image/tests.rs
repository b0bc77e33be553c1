use proptest::prelude::*;
use tempfile::NamedTempFile;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::memory_map::{AddressRange, EBDA_START, HIGH_MEMORY_START, MIB};
use crate::synth::{self, ELF_ENTRY, ELF_PVH_ENTRY, SynthBzImage, SynthElf, config, file, pattern};

fn machine(mib: u64) -> (MemoryMap, GuestMemoryMmap<()>) {
    let map = MemoryMap::new(mib * MIB, 40).unwrap();
    let memory = GuestMemoryMmap::from_ranges(&map.ram_regions()).unwrap();
    (map, memory)
}

fn bytes(memory: &GuestMemoryMmap<()>, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

fn message(error: &BootError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

fn refused(config: &BootConfig, mib: u64) -> String {
    let (map, memory) = machine(mib);
    message(&load(&memory, &map, config).unwrap_err())
}

#[test]
fn a_bzimage_is_placed_with_its_initrd_and_command_line() {
    let (map, memory) = machine(64);
    let synth = SynthBzImage::default();
    let (kernel, initrd) = (file(&synth.build()), file(&pattern(0x1234, 9)));
    let config = BootConfig { initrd: Some(initrd.path().into()), ..config(&kernel) };
    let start = load(&memory, &map, &config).unwrap();

    assert_eq!(start.protocol, Protocol::Linux64);
    assert_eq!(start.registers.rip, 0x100_0200);
    assert_eq!(start.kernel, AddressRange::new(0x100_0000, 0x110_0000));
    assert_eq!(bytes(&memory, 0x100_0000, synth.code.len()), synth.code);
    assert_eq!(start.initrd, Some(AddressRange::new(0x3FF_E000, 0x3FF_F234)));
    assert_eq!(bytes(&memory, 0x3FF_E000, 0x1234), pattern(0x1234, 9));
    assert_eq!(bytes(&memory, 0x2_0000, 30), b"console=ttyS0 root=/dev/vda\0\0\0");
    assert_eq!(bytes(&memory, start.rsdp, 8), b"RSD PTR ");
    // The zero page has the kernel's own header, completed.
    let zero_page = start.registers.rsi;
    assert_eq!(bytes(&memory, zero_page + 0x258, 8), 0x100_0000u64.to_le_bytes());
    assert_eq!(bytes(&memory, zero_page + 0x218, 4), 0x3FF_E000u32.to_le_bytes());
    assert_eq!(bytes(&memory, zero_page + 0x070, 8), start.rsdp.to_le_bytes());
}

#[test]
fn an_elf_kernel_is_entered_as_its_note_and_the_caller_say() {
    use BootProtocol::{Auto, Linux64, Pvh};
    let with_note = file(&SynthElf::default().build());
    let without = file(&SynthElf::without_pvh().build());
    let entered = |kernel: &NamedTempFile, protocol| {
        let (map, memory) = machine(64);
        let start = load(&memory, &map, &BootConfig { protocol, ..config(kernel) })
            .map_err(|e| e.to_string())?;
        Ok::<_, String>((start.protocol, start.registers.rip))
    };
    assert_eq!(entered(&with_note, Auto), Ok((Protocol::Pvh, ELF_PVH_ENTRY)));
    assert_eq!(entered(&with_note, Pvh), Ok((Protocol::Pvh, ELF_PVH_ENTRY)));
    assert_eq!(entered(&with_note, Linux64), Ok((Protocol::Linux64, ELF_ENTRY)));
    assert_eq!(entered(&without, Auto), Ok((Protocol::Linux64, ELF_ENTRY)));
    assert_eq!(entered(&without, Linux64), Ok((Protocol::Linux64, ELF_ENTRY)));
    assert!(entered(&without, Pvh).unwrap_err().contains("has no PVH entry (CONFIG_PVH)"));
    let bzimage = file(&SynthBzImage::default().build());
    assert!(entered(&bzimage, Pvh).unwrap_err().contains("a bzImage has no PVH entry"));
}

#[test]
fn the_segments_of_an_elf_kernel_go_to_their_physical_addresses() {
    let (map, memory) = machine(64);
    let synth = SynthElf::default();
    let kernel = file(&synth.build());
    let start = load(&memory, &map, &config(&kernel)).unwrap();
    assert_eq!(start.kernel, AddressRange::new(0x100_0000, 0x125_0000));
    assert_eq!(bytes(&memory, 0x100_0000, 0x2000), synth.code[..0x2000]);
    assert_eq!(bytes(&memory, 0x120_0000, 0x800), synth.code[0x2000..]);
    // PVH's structure names the command line and the tables.
    let info = start.registers.rbx;
    assert_eq!(bytes(&memory, info, 4), 0x336E_C578u32.to_le_bytes());
    assert_eq!(bytes(&memory, info + 32, 8), start.rsdp.to_le_bytes());
}

#[test]
fn placing_again_restores_all_that_the_guest_overwrote() {
    for image in [SynthBzImage::default().build(), SynthElf::default().build()] {
        let (map, memory) = machine(64);
        let (kernel, initrd) = (file(&image), file(&pattern(5000, 1)));
        let config = BootConfig { initrd: Some(initrd.path().into()), ..config(&kernel) };
        let boot = BootImage::open(&config).unwrap();
        let first = boot.place(&memory, &map, RamState::Fresh).unwrap();
        let mut expected = vec![0; 64 << 20];
        memory.read_slice(&mut expected, GuestAddress(0)).unwrap();

        memory.write_slice(&vec![0xA5; 64 << 20], GuestAddress(0)).unwrap();
        let second = boot.place(&memory, &map, RamState::Used).unwrap();
        assert_eq!(first, second);
        let mut found = vec![0; 64 << 20];
        memory.read_slice(&mut found, GuestAddress(0)).unwrap();
        let differs = |r: std::ops::Range<usize>| {
            r.clone().find(|&i| expected[i] != found[i] && found[i] != 0xA5)
        };
        assert_eq!(differs(0..64 << 20), None, "neither restored nor left alone");
        // The structures themselves are restored, not left alone.
        for range in [
            crate::layout::COMMAND_LINE as usize..crate::layout::COMMAND_LINE as usize + 27,
            0xE_1000..0xE_1024,
            0x100_0000..0x100_2000,
            first.initrd.unwrap().start as usize..first.initrd.unwrap().end as usize,
        ] {
            assert_eq!(expected[range.clone()], found[range.clone()], "{range:x?}");
        }
        if first.protocol == Protocol::Pvh {
            // What the second segment has in memory but not in the file.
            assert!(found[0x120_0800..0x125_0000].iter().all(|&b| b == 0));
        }
    }
}

#[test]
fn a_fresh_machine_does_not_populate_what_is_zero_anyway() {
    let (map, memory) = machine(64);
    let kernel = file(&SynthElf::default().build());
    let tail = GuestAddress(0x120_0800);
    memory.write_slice(&[1], tail).unwrap();
    let boot = BootImage::open(&config(&kernel)).unwrap();
    boot.place(&memory, &map, RamState::Fresh).unwrap();
    assert_eq!(memory.read_obj::<u8>(tail).unwrap(), 1);
    boot.place(&memory, &map, RamState::Used).unwrap();
    assert_eq!(memory.read_obj::<u8>(tail).unwrap(), 0);
}

#[test]
fn files_that_are_not_there_or_no_files_are_named() {
    let kernel = file(&SynthBzImage::default().build());
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let config = |kernel: &std::path::Path, initrd: Option<&std::path::Path>| BootConfig {
        kernel: kernel.into(),
        initrd: initrd.map(Into::into),
        ..synth::config(&file(b""))
    };
    let missing_name = missing.display();
    assert_eq!(
        refused(&config(&missing, None), 64),
        format!("cannot open kernel '{missing_name}': No such file or directory (os error 2)")
    );
    assert_eq!(
        refused(&config(kernel.path(), Some(&missing)), 64),
        format!("cannot open initrd '{missing_name}': No such file or directory (os error 2)")
    );
    assert_eq!(
        refused(&config(dir.path(), None), 64),
        format!("kernel '{}' is not a regular file", dir.path().display())
    );
    let empty = file(b"");
    assert_eq!(
        refused(&config(kernel.path(), Some(empty.path())), 64),
        format!("initrd '{}' is empty", empty.path().display())
    );
}

#[test]
fn a_pipe_is_refused_without_waiting_for_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    let status = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(status.success());
    let config = BootConfig { kernel: pipe, ..config(&file(b"")) };
    assert!(refused(&config, 64).ends_with("is not a regular file"));
}

#[test]
fn an_initrd_that_does_not_fit_says_how_much_room_there_is() {
    let kernel = file(&SynthBzImage::default().build());
    let initrd = file(b"x");
    initrd.as_file().set_len(48 << 20).unwrap();
    let config = BootConfig { initrd: Some(initrd.path().into()), ..config(&kernel) };
    let name = initrd.path().display();
    assert_eq!(
        refused(&config, 64),
        format!(
            "initrd '{name}' (48 MiB) does not fit: between the kernel's end at 17 MiB and the \
             end of low memory at 64 MiB are 47 MiB; give the machine more memory"
        )
    );
    let (map, memory) = machine(65);
    load(&memory, &map, &config).unwrap();
}

#[test]
fn the_kernels_own_limit_for_its_initrd_is_kept() {
    let mut synth = SynthBzImage::default();
    synth.header.initrd_addr_max = 0x1FF_FFFF;
    let (kernel, initrd) = (file(&synth.build()), file(&[1; 0x1000]));
    let config = BootConfig { initrd: Some(initrd.path().into()), ..config(&kernel) };
    let (map, memory) = machine(128);
    let start = load(&memory, &map, &config).unwrap();
    assert_eq!(start.initrd, Some(AddressRange::new(0x1FF_F000, 0x200_0000)));
    initrd.as_file().set_len(32 << 20).unwrap();
    assert!(refused(&config, 128).contains("and the kernel's limit for it at 32 MiB are 15 MiB"));
}

#[test]
fn a_command_line_is_as_long_as_the_kernel_takes_and_no_longer() {
    let mut synth = SynthBzImage::default();
    synth.header.cmdline_size = 100;
    let kernel = file(&synth.build());
    let with = |len: usize| BootConfig { command_line: "x".repeat(len), ..config(&kernel) };
    let (map, memory) = machine(64);
    load(&memory, &map, &with(100)).unwrap();
    assert_eq!(bytes(&memory, 0x2_0000, 101), [&[b'x'; 100][..], &[0]].concat());
    let name = kernel.path().display();
    assert_eq!(
        message(&BootImage::open(&with(101)).unwrap_err()),
        format!("the kernel command line has 101 bytes, kernel '{name}' takes at most 100")
    );
    // A hostile limit does not let it grow out of its place.
    synth.header.cmdline_size = u32::MAX;
    let kernel = file(&synth.build());
    let config = BootConfig { command_line: "x".repeat(0x1_0000), ..config(&kernel) };
    assert!(refused(&config, 64).ends_with("takes at most 65535"));
}

#[test]
fn a_command_line_with_a_nul_is_refused() {
    let kernel = file(&SynthBzImage::default().build());
    let config = BootConfig { command_line: "quiet\0init=/bin/sh".into(), ..config(&kernel) };
    assert_eq!(refused(&config, 64), "the kernel command line contains a NUL byte at offset 5");
}

#[test]
fn memory_that_is_not_what_the_map_says_is_refused() {
    let kernel = file(&SynthBzImage::default().build());
    let map = MemoryMap::new(128 * MIB, 40).unwrap();
    let (_, memory) = machine(64);
    let error = load(&memory, &map, &config(&kernel)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "guest memory does not match the memory map: no RAM at 0x4000000"
    );
}

#[test]
fn an_entry_outside_the_kernel_is_refused() {
    let mut synth = SynthElf::without_pvh();
    synth.header.entry = 0x7000.into();
    let kernel = file(&synth.build());
    assert!(refused(&config(&kernel), 64).ends_with("its entry 0x7000 is outside its segments"));
}

/// Boots `image` and checks what must hold whenever that succeeds.
fn boot_hostile(image: &[u8], protocol: BootProtocol) -> Result<(), TestCaseError> {
    let (map, memory) = machine(64);
    let (kernel, initrd) = (file(image), file(&pattern(0x2345, 2)));
    let config = BootConfig { initrd: Some(initrd.path().into()), protocol, ..config(&kernel) };
    let start = match load(&memory, &map, &config) {
        Ok(start) => start,
        Err(BootError::InitrdDoesNotFit { .. }) => return Ok(()),
        Err(error) => {
            let text = message(&error);
            prop_assert!(text.contains(&kernel.path().display().to_string()), "{}", text);
            return Ok(());
        }
    };
    let high = AddressRange::new(HIGH_MEMORY_START, map.low_ram().end);
    prop_assert!(high.covers(&start.kernel), "{:x?}", start.kernel);
    prop_assert!(start.kernel.contains(start.registers.rip));
    let initrd = start.initrd.unwrap();
    prop_assert!(high.covers(&initrd) && !initrd.overlaps(&start.kernel));
    prop_assert_eq!(bytes(&memory, initrd.start, 0x2345), pattern(0x2345, 2));
    prop_assert_eq!(bytes(&memory, 0x2_0000, 8), b"console=");
    prop_assert!(start.registers.rsp < EBDA_START);
    Ok(())
}

fn protocol() -> impl Strategy<Value = BootProtocol> {
    prop_oneof![Just(BootProtocol::Auto), Just(BootProtocol::Pvh), Just(BootProtocol::Linux64)]
}

/// Values that sit on the edges of checks.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0u32..64).prop_map(|bit| 1 << bit),
        (0u32..64).prop_map(|bit| (1 << bit) - 1),
        (0u64..0x4000).prop_map(u64::wrapping_neg),
        0u64..0x800_0000,
    ]
}

/// Up to six changes of 1, 2, 4 or 8 bytes somewhere in the first `len` bytes.
fn changes(len: usize) -> impl Strategy<Value = Vec<(usize, usize, u64)>> {
    let one = (0..len, prop_oneof![Just(1usize), Just(2), Just(4), Just(8)], word());
    proptest::collection::vec(one, 1..6)
}

fn apply(image: &mut [u8], offset: usize, changes: &[(usize, usize, u64)]) {
    for &(at, width, value) in changes {
        let at = offset + at;
        image[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_spoilt_bzimage_is_booted_soundly_or_refused_by_name(
        changes in changes(0x90), protocol in protocol(), cut in proptest::option::of(0usize..0x3800),
    ) {
        let mut image = SynthBzImage::default().build();
        apply(&mut image, 0x1F0, &changes);
        image.truncate(cut.unwrap_or(image.len()));
        boot_hostile(&image, protocol)?;
    }

    #[test]
    fn a_spoilt_elf_kernel_is_booted_soundly_or_refused_by_name(
        headers in changes(64 + 3 * 56),
        notes in proptest::option::of(changes(0x40)),
        protocol in protocol(),
    ) {
        let mut image = SynthElf::default().build();
        apply(&mut image, 0, &headers);
        apply(&mut image, 0x800, &notes.unwrap_or_default());
        boot_hostile(&image, protocol)?;
    }
}

/// A bzImage and an ELF file whose image and work space are `mib` MiB, from 16 MiB on.
fn kernels_of(mib: u64) -> [Vec<u8>; 2] {
    let mut bzimage = SynthBzImage::default();
    bzimage.header.init_size = (mib * MIB) as u32;
    let mut elf = SynthElf::default();
    elf.segments[1].memory_size = (mib * MIB - 0x20_0000).into();
    [bzimage.build(), elf.build()]
}

#[test]
fn the_smallest_machine_takes_a_kernel_by_every_protocol() {
    use BootProtocol::{Auto, Linux64, Pvh};
    // Up to the last byte but the initrd's page.
    let [bzimage, elf] = kernels_of(47);
    let cases = [
        (&bzimage, Auto, Protocol::Linux64, 0x100_0200),
        (&bzimage, Linux64, Protocol::Linux64, 0x100_0200),
        (&elf, Pvh, Protocol::Pvh, ELF_PVH_ENTRY),
        (&elf, Linux64, Protocol::Linux64, ELF_ENTRY),
    ];
    for (image, protocol, expected, entry) in cases {
        let (map, memory) = machine(64);
        let (kernel, initrd) = (file(image), file(&pattern(0x1000, 2)));
        let initrd = Some(initrd.path().into());
        let config = BootConfig { protocol, initrd, ..config(&kernel) };
        let start = load(&memory, &map, &config).unwrap_or_else(|e| panic!("{protocol:?}: {e}"));
        assert_eq!((start.protocol, start.registers.rip), (expected, entry), "{protocol:?}");
        assert_eq!(start.kernel, AddressRange::new(16 * MIB, 63 * MIB), "{protocol:?}");
        let placed = start.initrd.unwrap();
        assert!(placed.start >= start.kernel.end && placed.end <= 64 * MIB, "{placed:x?}");
        assert_eq!(bytes(&memory, placed.start, 0x1000), pattern(0x1000, 2));
        assert_eq!(bytes(&memory, start.rsdp, 8), b"RSD PTR ");
    }
}

#[test]
fn a_kernel_too_large_for_the_machine_is_refused_in_one_sentence() {
    // 74 MiB is what Debian's kernel asks for.
    for (image, needed) in kernels_of(58).into_iter().map(|image| (image, 74)) {
        let kernel = file(&image);
        let said = refused(&config(&kernel), 64);
        let expected = format!(
            "kernel '{}' does not fit: it needs memory up to {needed} MiB, the machine's low memory \
             ends at 64 MiB; give the machine more memory",
            kernel.path().display()
        );
        assert_eq!(said, expected);
        let (map, memory) = machine(80);
        assert!(load(&memory, &map, &config(&kernel)).is_ok(), "80 MiB are enough");
    }
}
