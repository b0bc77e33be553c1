//! The bus without KVM.
use super::*;
use spindle_devices::{Access, Registers, Window};
use vmm_sys_util::eventfd::EventFd;

#[derive(Default)]
struct Log {
    accesses: Mutex<Vec<(char, u64, u8, u64)>>,
}

impl Registers for Log {
    fn read(&self, access: Access) -> u64 {
        self.accesses.lock().unwrap().push(('r', access.offset, access.width, 0));
        0x1122_3344_5566_7700 | access.offset
    }
    fn write(&self, access: Access, value: u64) {
        self.accesses.lock().unwrap().push(('w', access.offset, access.width, value));
    }
}

impl Log {
    fn take(&self) -> Vec<(char, u64, u8, u64)> {
        std::mem::take(&mut self.accesses.lock().unwrap())
    }
}

#[derive(Clone, Default)]
struct Fake {
    calls: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    fn note(&self, text: String) -> io::Result<()> {
        self.calls.lock().unwrap().push(text);
        Ok(())
    }
    fn take(&self) -> Vec<String> {
        let mut calls = std::mem::take(&mut *self.calls.lock().unwrap());
        calls.sort();
        calls
    }
}

impl Offload for Fake {
    fn add_doorbell(&self, bell: &Doorbell) -> io::Result<()> {
        self.note(format!("bell+ {:x}", bell.address))
    }
    fn remove_doorbell(&self, bell: &Doorbell) -> io::Result<()> {
        self.note(format!("bell- {:x}", bell.address))
    }
    fn add_zone(&self, _: Space, base: u64, len: u32) -> io::Result<()> {
        self.note(format!("zone+ {base:x} {len:x}"))
    }
    fn remove_zone(&self, _: Space, base: u64, len: u32) -> io::Result<()> {
        self.note(format!("zone- {base:x} {len:x}"))
    }
}

fn window(space: Space, base: u64, len: u64, target: &Arc<Log>) -> Window {
    let target = Arc::clone(target) as Arc<dyn Registers>;
    Window { space, base, len, coalesce: false, target, target_offset: 0 }
}

fn ranges(ranges: Vec<Window>) -> Windows {
    Windows { ranges, doorbells: vec![] }
}

fn bus() -> (Arc<Bus>, Fake) {
    let fake = Fake::default();
    (Bus::new(Box::new(fake.clone())), fake)
}

#[test]
fn nobody_answers_with_ones() {
    let (bus, _) = bus();
    let mut view = bus.view();
    let mut data = [0; 4];
    view.read(Space::Port, 0x80, &mut data);
    assert_eq!(data, [0xFF; 4]);
    view.write(Space::Memory, 0xC000_0000, &data);
    let mut last = [0; 8];
    view.read(Space::Memory, u64::MAX - 3, &mut last);
    assert_eq!(last, [0xFF; 8]);
}

#[test]
fn an_access_reaches_its_window_at_its_offset() {
    let (bus, _) = bus();
    let (a, b) = (Arc::new(Log::default()), Arc::new(Log::default()));
    let mut view = bus.view();
    let mut high = window(Space::Memory, 0x2000, 0x100, &b);
    high.target_offset = 0x40;
    bus.set(1, ranges(vec![window(Space::Memory, 0x1000, 0x100, &a), high]));
    view.write(Space::Memory, 0x1010, &[1, 2]);
    view.write(Space::Memory, 0x20FC, &[1, 2, 3, 4]);
    view.write(Space::Port, 0x1010, &[1]);
    assert_eq!(a.take(), [('w', 0x10, 2, 0x201)]);
    assert_eq!(b.take(), [('w', 0x13C, 4, 0x0403_0201)]);
    let mut data = [0; 8];
    view.read(Space::Memory, 0x1008, &mut data);
    assert_eq!(data, [8, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
}

#[test]
fn odd_widths_and_window_ends_go_byte_by_byte() {
    let (bus, _) = bus();
    let a = Arc::new(Log::default());
    bus.set(1, ranges(vec![window(Space::Port, 0x10, 8, &a)]));
    let mut view = bus.view();
    view.write(Space::Port, 0x10, &[7, 8, 9]);
    assert_eq!(a.take(), [('w', 0, 1, 7), ('w', 1, 1, 8), ('w', 2, 1, 9)]);
    let mut data = [0; 4];
    view.read(Space::Port, 0x16, &mut data);
    assert_eq!(data, [6, 7, 0xFF, 0xFF]);
    view.read(Space::Port, 0xE, &mut data);
    assert_eq!(data, [0xFF, 0xFF, 0, 1]);
}

#[test]
fn an_access_over_windows_that_continue_each_other_is_one() {
    let (bus, fake) = bus();
    let (a, b) = (Arc::new(Log::default()), Arc::new(Log::default()));
    let part = |base: u64, len, offset, coalesce| Window {
        target_offset: offset,
        coalesce,
        ..window(Space::Port, base, len, &a)
    };
    let other = window(Space::Port, 0x1F8, 8, &b);
    let apart = part(0x200, 8, 0, false);
    let parts = [part(0x1F0, 1, 0, false), part(0x1F1, 6, 1, true), part(0x1F7, 1, 7, false)];
    bus.set(1, ranges([&parts[..], &[other, apart]].concat()));
    // Only what was declared so is collected.
    assert_eq!(fake.take(), ["zone+ 1f1 6"]);
    let mut view = bus.view();
    view.write(Space::Port, 0x1F0, &[1, 2]);
    view.write(Space::Port, 0x1F0, &[1, 2, 3, 4]);
    view.write(Space::Port, 0x1F6, &[5, 6]);
    assert_eq!(a.take(), [('w', 0, 2, 0x201), ('w', 0, 4, 0x0403_0201), ('w', 6, 2, 0x605)]);
    // Another device, and the same one at another offset, begin anew.
    view.write(Space::Port, 0x1F7, &[5, 6]);
    assert_eq!((a.take(), b.take()), (vec![('w', 7, 1, 5)], vec![('w', 0, 1, 6)]));
    view.write(Space::Port, 0x1FF, &[5, 6]);
    assert_eq!((a.take(), b.take()), (vec![('w', 0, 1, 6)], vec![('w', 7, 1, 5)]));
}

#[test]
fn the_earlier_claim_keeps_the_addresses_until_it_goes() {
    let (bus, _) = bus();
    let (a, b) = (Arc::new(Log::default()), Arc::new(Log::default()));
    bus.set(1, ranges(vec![window(Space::Port, 0x110, 0x10, &a)]));
    bus.set(2, ranges(vec![window(Space::Port, 0x100, 0x30, &b)]));
    let mut view = bus.view();
    let mut probe = |address: u64| {
        view.write(Space::Port, address, &[0]);
        (a.take().first().map(|x| x.1), b.take().first().map(|x| x.1))
    };
    assert_eq!(probe(0x10F), (None, Some(0xF)));
    assert_eq!(probe(0x110), (Some(0), None));
    assert_eq!(probe(0x11F), (Some(0xF), None));
    assert_eq!(probe(0x120), (None, Some(0x20)));
    // Declaring the same again does not make the claim younger.
    bus.set(1, ranges(vec![window(Space::Port, 0x110, 0x10, &a)]));
    assert_eq!(probe(0x110), (Some(0), None));
    bus.set(1, Windows::default());
    assert_eq!(probe(0x110), (None, Some(0x10)));
    // It comes back as the younger one.
    bus.set(1, ranges(vec![window(Space::Port, 0x110, 0x10, &a)]));
    assert_eq!(probe(0x110), (None, Some(0x10)));
}

#[test]
fn only_differences_reach_the_accelerator() {
    let (bus, fake) = bus();
    let a = Arc::new(Log::default());
    let event = Arc::new(EventFd::new(0).unwrap());
    let bell = |address| Doorbell {
        space: Space::Memory,
        address,
        width: 2,
        value: None,
        event: Arc::clone(&event),
    };
    let mut coalesced = window(Space::Memory, 0x2000, 0x10, &a);
    coalesced.coalesce = true;
    let main = window(Space::Memory, 0x1000, 0x100, &a);
    let declare = |ranges: Vec<Window>, doorbells| bus.set(3, Windows { ranges, doorbells });
    declare(vec![main.clone(), coalesced.clone()], vec![bell(0x1000), bell(0x1004)]);
    assert_eq!(fake.take(), ["bell+ 1000", "bell+ 1004", "zone+ 2000 10"]);
    declare(vec![main.clone(), coalesced.clone()], vec![bell(0x1000), bell(0x1008)]);
    assert_eq!(fake.take(), ["bell+ 1008", "bell- 1004"]);
    // Nobody can ring a bell that lies outside of the device's windows.
    declare(vec![main.clone()], vec![bell(0x1000), bell(0x10FF), bell(0x3000)]);
    assert_eq!(fake.take(), ["bell- 1008", "zone- 2000 10"]);
    bus.set(1, ranges(vec![window(Space::Memory, 0x1000, 0x100, &a)]));
    assert_eq!(fake.take(), [""; 0]);
    declare(vec![], vec![bell(0x1000)]);
    assert_eq!(fake.take(), ["bell- 1000"]);
}
