//! What is RAM and what is not.

use std::sync::Mutex;

use super::*;
use vm_memory::GuestAddress;

#[derive(Default)]
struct Seen(Mutex<Vec<(u64, u64)>>);

impl DirtySink for Seen {
    fn wrote(&self, address: u64, len: u64) {
        self.0.lock().unwrap().push((address, len));
    }
}

/// RAM at 0 to 1 MiB in two regions without a gap, and 64 KiB at 4 GiB.
fn dma() -> (Dma, Arc<Seen>) {
    let ranges = [
        (GuestAddress(0), 0x8_0000),
        (GuestAddress(0x8_0000), 0x8_0000),
        (GuestAddress(4 << 30), 0x1_0000),
    ];
    let ram = GuestRam::from_ranges(&ranges).unwrap();
    let seen = Arc::new(Seen::default());
    (Dma::new(ram, Some(Arc::clone(&seen) as Arc<dyn DirtySink>)), seen)
}

/// Address, length, whether all of it is RAM.
const RANGES: &[(u64, u64, bool)] = &[
    (0, 1, true),
    (0, 0x10_0000, true),
    (0, 0x10_0001, false),
    (0x7_fff0, 0x20, true),
    (0xf_ffff, 1, true),
    (0xf_ffff, 2, false),
    (0x10_0000, 1, false),
    (0xfee0_0000, 4, false),
    (4 << 30, 0x1_0000, true),
    ((4 << 30) - 1, 2, false),
    ((4 << 30) + 0xffff, 2, false),
    (u64::MAX, 1, false),
    (u64::MAX - 3, 8, false),
    (0, u64::MAX, false),
    (1 << 63, 1 << 63, false),
];

#[test]
fn only_ram_is_reached() {
    let (dma, seen) = dma();
    for (address, len, is_ram) in RANGES {
        assert_eq!(dma.check(*address, *len).is_ok(), *is_ram, "{address:#x}+{len:#x}");
        let mut buf = IoBuf::with_capacity(2);
        buf.set_keep(dma.keep());
        let pushed = dma.push(&mut buf, *address, *len);
        assert_eq!(pushed.is_ok(), *is_ram, "{address:#x}+{len:#x}");
        assert_eq!(buf.len(), if *is_ram { *len } else { 0 }, "all or nothing");
        let Ok(count) = usize::try_from((*len).min(0x10_0002)) else { continue };
        if *len <= 0x10_0001 {
            let mut bytes = vec![0xee; count];
            assert_eq!(dma.read_bytes(*address, &mut bytes).is_ok(), *is_ram);
            assert_eq!(bytes.iter().all(|b| *b == 0xee), !*is_ram, "all or nothing");
            seen.0.lock().unwrap().clear();
            assert_eq!(dma.write_bytes(*address, &vec![0; count]).is_ok(), *is_ram);
            assert_eq!(seen.0.lock().unwrap().len(), usize::from(*is_ram));
        }
    }
}

#[test]
fn bytes_cross_from_one_region_to_the_next() {
    let (dma, seen) = dma();
    let bytes: Vec<u8> = (0..64).collect();
    dma.write_bytes(0x8_0000 - 20, &bytes).unwrap();
    assert_eq!(*seen.0.lock().unwrap(), [(0x8_0000 - 20, 64)]);
    let mut back = [0; 64];
    dma.read_bytes(0x8_0000 - 20, &mut back).unwrap();
    assert_eq!(back[..], bytes);
    assert_eq!(dma.read::<[u8; 4]>(0x8_0000 - 2).unwrap(), [18, 19, 20, 21]);
    let mut buf = IoBuf::with_capacity(2);
    buf.set_keep(dma.keep());
    dma.push(&mut buf, 0x8_0000 - 20, 64).unwrap();
    assert_eq!(buf.to_vec(), bytes);
    seen.0.lock().unwrap().clear();
    dma.wrote(&buf);
    let told: u64 = seen.0.lock().unwrap().iter().map(|(_, len)| len).sum();
    assert_eq!(told, 64, "the kernel's writes are told by guest address");
    assert_eq!(seen.0.lock().unwrap()[0].0, 0x8_0000 - 20);
}

#[test]
fn the_memory_outlives_the_view_while_a_buffer_keeps_it() {
    let (dma, _) = dma();
    dma.write_bytes(100, b"kept").unwrap();
    let mut buf = IoBuf::with_capacity(1);
    buf.set_keep(dma.keep());
    dma.push(&mut buf, 100, 4).unwrap();
    drop(dma);
    assert_eq!(buf.to_vec(), b"kept");
}

#[test]
fn a_span_lies_in_one_region() {
    let (dma, seen) = dma();
    assert!(dma.span(0x7_ff00, 0x100).is_ok());
    assert!(dma.span(0x7_ff00, 0x101).is_err(), "in two");
    assert!(dma.span(0x10_0000, 2).is_err());
    let span = dma.span(0x1000, 16).unwrap();
    seen.0.lock().unwrap().clear();
    span.store_u16(2, 0xbeef, Ordering::Release);
    span.store_u64(8, 0x0003_0201, Ordering::Release);
    assert_eq!(span.load_u16(2, Ordering::Acquire), 0xbeef);
    assert_eq!(dma.read::<[u8; 16]>(0x1000).unwrap()[2..11], [0xef, 0xbe, 0, 0, 0, 0, 1, 2, 3]);
    assert_eq!(*seen.0.lock().unwrap(), [(0x1002, 2), (0x1008, 8)]);
    span.store_u32(12, 0x0403_0201, Ordering::Release);
    assert_eq!(span.load_u32(12, Ordering::Acquire), 0x0403_0201);
    assert_eq!(span.view().load_u64s(8), [0x0403_0201_0003_0201]);
    assert_eq!(seen.0.lock().unwrap().last(), Some(&(0x100c, 4)));
}

#[test]
#[should_panic(expected = "ring offset 16")]
fn a_span_has_an_end() {
    let (dma, _) = dma();
    let _ = dma.span(0x1000, 16).unwrap().load_u16(16, Ordering::Relaxed);
}

#[test]
#[should_panic(expected = "ring offset 12")]
fn a_quadword_does_not_reach_beyond_a_span() {
    let (dma, _) = dma();
    dma.span(0x1004, 16).unwrap().store_u64(12, 0, Ordering::Relaxed);
}

#[test]
fn failed_ram_is_none_until_it_is_healed() {
    let ram = GuestRam::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    let failed = Arc::new(FailedRam::default());
    let dma = Dma::failing(ram, None, Arc::clone(&failed));
    failed.fail(0x1000, 0x100);
    failed.fail(0x1800, 1);
    for (address, len, works) in [
        (0, 0x1000, true),
        (0, 0x1001, false),
        (0xfff, 2, false),
        (0x1000, 1, false),
        (0x10ff, 1, false),
        (0x1100, 0x700, true),
        (0x1100, 0x701, false),
        (0x1801, 0x100, true),
    ] {
        let mut bytes = vec![0; len];
        assert_eq!(dma.read_bytes(address, &mut bytes).is_ok(), works, "{address:#x}+{len:#x}");
        assert_eq!(dma.write_bytes(address, &bytes).is_ok(), works, "{address:#x}+{len:#x}");
        assert_eq!(dma.check(address, len as u64).is_ok(), works, "{address:#x}+{len:#x}");
        assert_eq!(dma.span(address, len as u64).is_ok(), works, "{address:#x}+{len:#x}");
        let mut buf = IoBuf::with_capacity(1);
        buf.set_keep(dma.keep());
        assert_eq!(dma.push(&mut buf, address, len as u64).is_ok(), works);
    }
    failed.heal();
    assert_eq!(dma.check(0, 0x1_0000), Ok(()));
}

#[test]
fn a_view_is_read_at_every_alignment_and_not_beyond() {
    let (dma, _) = dma();
    let bytes: Vec<u8> = (0..64).collect();
    dma.write_bytes(0x1000, &bytes).unwrap();
    for shift in 0..16 {
        let view = dma.view(0x1000 + shift, 32).unwrap();
        for offset in [0, 16] {
            let at = (shift + offset) as usize;
            let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            assert_eq!(view.load_u64s(offset), [word(at), word(at + 8)]);
        }
    }
    for (address, len) in [(u64::MAX - 4, 32), (0x1000, u64::MAX), (0x7_fff0, 32), (0x10_0000, 1)] {
        assert_eq!(dma.view(address, len).err(), Some(NotRam { address, len }));
    }
}

#[test]
#[should_panic(expected = "table offset 17")]
fn a_view_ends() {
    let (dma, _) = dma();
    let _ = dma.view(0x1000, 32).unwrap().load_u64s::<2>(17);
}
