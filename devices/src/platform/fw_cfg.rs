//! The firmware configuration device (QEMU, docs/specs/fw_cfg.rst): what firmware asks about the
//! machine, by key or by file name, through a data port or by DMA.
//!
//! The data port gives the selected item byte by byte. The DMA registers take the address of a
//! descriptor in guest memory; when the access returns, it has been carried out. Items cannot be
//! written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{Access, Dma, Registers};

/// Offset of the selector register (16 bits, little-endian); the data register follows its first
/// byte.
pub const SELECTOR: u64 = 0;
/// Offset of the data register (8 bits).
pub const DATA: u64 = 1;
/// Offset of the DMA address register (64 bits, big-endian).
pub const DMA_ADDRESS: u64 = 4;

/// Key of the signature, `QEMU`.
pub const SIGNATURE: u16 = 0x0000;
/// Key of the features: bit 0 the traditional interface, bit 1 DMA.
pub const ID: u16 = 0x0001;
/// Key of the machine's UUID, 16 bytes.
pub const UUID: u16 = 0x0002;
/// Key of the RAM's size in bytes, 64 bits.
pub const RAM_SIZE: u16 = 0x0003;
/// Key of "put the firmware's messages on the serial port" (`-nographic`), 16 bits.
pub const NO_GRAPHIC: u16 = 0x0004;
/// Key of the number of CPUs, 16 bits.
pub const CPUS: u16 = 0x0005;
/// Key of "show a boot menu", 16 bits.
pub const BOOT_MENU: u16 = 0x000e;
/// Key of the most CPUs there can be, 16 bits.
pub const CPUS_MAX: u16 = 0x000f;
/// Key of the file directory.
pub const FILE_DIRECTORY: u16 = 0x0019;
/// The first key that files have.
pub const FILE_FIRST: u16 = 0x0020;
/// Key of "IRQ 0 is I/O APIC input 2", 32 bits.
pub const IRQ0_OVERRIDE: u16 = 0x8002;

/// Bit 14 of a selector asks for writing, which does not change the item that is meant.
const WRITE_CHANNEL: u16 = 1 << 14;
/// What the DMA address register reads as: `QEMU CFG`.
const DMA_SIGNATURE: u64 = 0x5145_4d55_2043_4647;
/// The features that are there.
const FEATURES: u32 = 0b11;
/// The longest name of a file, without its NUL.
pub const NAME_LEN_MAX: usize = 55;

/// DMA control: it failed.
const CONTROL_ERROR: u32 = 1 << 0;
/// DMA control: copy item data to memory.
const CONTROL_READ: u32 = 1 << 1;
/// DMA control: skip item data.
const CONTROL_SKIP: u32 = 1 << 2;
/// DMA control: select the item in the upper half first.
const CONTROL_SELECT: u32 = 1 << 3;
/// DMA control: copy memory to the item.
const CONTROL_WRITE: u32 = 1 << 4;

/// `FWCfgDmaAccess`; all fields are big-endian.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
struct Descriptor {
    control: [u8; 4],
    length: [u8; 4],
    address: [u8; 8],
}

const _: () = assert!(size_of::<Descriptor>() == 16);

/// Where items that have ended are padded from.
const ZEROS: [u8; 4096] = [0; 4096];

/// Something that firmware can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    what: What,
    data: Arc<[u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Key(u16),
    File(String),
}

impl Item {
    /// An item with a key of its own.
    #[must_use]
    pub fn key(key: u16, data: impl Into<Vec<u8>>) -> Self {
        Self { what: What::Key(key), data: data.into().into() }
    }

    /// A file. Names longer than [`NAME_LEN_MAX`] bytes are cut.
    #[must_use]
    pub fn file(name: &str, data: Vec<u8>) -> Self {
        Self { what: What::File(name.to_owned()), data: data.into() }
    }
}

struct State {
    items: Vec<Item>,
    /// What the selected item held when it was selected; nothing where there is none.
    selected: Arc<[u8]>,
    offset: usize,
    /// What was written to the upper half of the DMA address register.
    address_high: u32,
}

/// The device.
pub struct FwCfg {
    state: Mutex<State>,
    memory: Dma,
}

impl FwCfg {
    /// Number of ports of selector and data.
    pub const PORTS: u64 = 2;
    /// Number of ports of the DMA address register.
    pub const DMA_PORTS: u64 = 8;

    /// The device with these items; signature, features and file directory it makes itself. Of two
    /// items with one key or name, the later one counts.
    #[must_use]
    pub fn new(items: Vec<Item>, memory: Dma) -> Self {
        let mut all = Vec::with_capacity(items.len() + 2);
        all.push(Item::key(SIGNATURE, *b"QEMU"));
        all.push(Item::key(ID, FEATURES.to_le_bytes()));
        for item in items {
            put(&mut all, item);
        }
        let mut state = State { items: all, selected: Arc::default(), offset: 0, address_high: 0 };
        state.select(SIGNATURE);
        Self { state: Mutex::new(state), memory }
    }

    /// Replaces the content of a file, or adds it. Guests see it when they select it again.
    pub fn set_file(&self, name: &str, data: Vec<u8>) {
        put(&mut self.lock().items, Item::file(name, data));
    }

    /// A reset of the machine: the signature is selected.
    pub fn reset(&self) {
        let mut state = self.lock();
        state.select(SIGNATURE);
        state.address_high = 0;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out the descriptor at `address`.
    fn transfer(&self, address: u64) {
        // The control word is where the outcome is told, if it can be told at all.
        let tell = |control: u32| {
            if self.memory.write_bytes(address, &control.to_be_bytes()).is_err() {
                log::debug!("fw_cfg: no memory at descriptor {address:#x}");
            }
        };
        let Ok(descriptor) = self.memory.read::<Descriptor>(address) else {
            return tell(CONTROL_ERROR);
        };
        let control = u32::from_be_bytes(descriptor.control);
        let length = u64::from(u32::from_be_bytes(descriptor.length));
        let (data, offset) = {
            let mut state = self.lock();
            if control & CONTROL_SELECT != 0 {
                state.select((control >> 16) as u16);
            }
            let data = Arc::clone(&state.selected);
            let offset = state.offset;
            let moves = control & (CONTROL_READ | CONTROL_SKIP | CONTROL_WRITE) != 0;
            if moves && control & (CONTROL_READ | CONTROL_WRITE) != CONTROL_WRITE {
                let rest = data.len().saturating_sub(offset) as u64;
                // At most what is left, which is a length in memory.
                state.offset += rest.min(length) as usize;
            }
            (data, offset)
        };
        let failed = if control & CONTROL_READ != 0 {
            let rest = data.get(offset..).unwrap_or_default();
            self.copy(u64::from_be_bytes(descriptor.address), length, rest).is_err()
        } else {
            control & CONTROL_WRITE != 0 && length > 0
        };
        tell(if failed { CONTROL_ERROR } else { 0 });
    }

    /// Copies `length` bytes of `data` to memory, with zeros after its end.
    fn copy(&self, address: u64, length: u64, data: &[u8]) -> Result<(), crate::dma::NotRam> {
        self.memory.check(address, length)?;
        let count = length.min(data.len() as u64);
        self.memory.write_bytes(address, &data[..count as usize])?;
        let mut done = count;
        while done < length {
            let n = (length - done).min(ZEROS.len() as u64);
            self.memory.write_bytes(address + done, &ZEROS[..n as usize])?;
            done += n;
        }
        Ok(())
    }
}

/// Adds an item, in the place of its namesake if it has one.
fn put(items: &mut Vec<Item>, mut item: Item) {
    if let What::File(name) = &mut item.what {
        let end = (0..=NAME_LEN_MAX.min(name.len())).rev().find(|at| name.is_char_boundary(*at));
        name.truncate(end.unwrap_or_default());
    }
    match items.iter_mut().find(|there| there.what == item.what) {
        Some(there) => *there = item,
        None => items.push(item),
    }
}

impl State {
    fn select(&mut self, key: u16) {
        self.selected = self.data(key & !WRITE_CHANNEL);
        self.offset = 0;
    }

    /// The files, each with its key.
    fn files(&self) -> impl Iterator<Item = (u16, &str, &Arc<[u8]>)> {
        let files = self.items.iter().filter_map(|item| match &item.what {
            What::File(name) => Some((name.as_str(), &item.data)),
            What::Key(_) => None,
        });
        (FILE_FIRST..WRITE_CHANNEL).zip(files).map(|(key, (name, data))| (key, name, data))
    }

    /// What an item holds.
    fn data(&self, key: u16) -> Arc<[u8]> {
        if key == FILE_DIRECTORY {
            return self.directory().into();
        }
        let by_key = self.items.iter().find(|item| item.what == What::Key(key));
        let data = by_key.map(|item| &item.data);
        let data = data.or_else(|| self.files().find(|(k, ..)| *k == key).map(|(.., data)| data));
        data.map(Arc::clone).unwrap_or_default()
    }

    /// The file directory: a count, then for each file its size, key, two reserved bytes and its
    /// name in 56 bytes; numbers are big-endian.
    fn directory(&self) -> Vec<u8> {
        let count = self.files().count() as u32;
        let mut bytes = count.to_be_bytes().to_vec();
        for (key, name, data) in self.files() {
            bytes.extend((data.len() as u32).to_be_bytes());
            bytes.extend(key.to_be_bytes());
            bytes.extend([0; 2]);
            let end = bytes.len() + NAME_LEN_MAX + 1;
            bytes.extend(name.as_bytes());
            bytes.resize(end, 0);
        }
        bytes
    }

    fn next_byte(&mut self) -> u8 {
        let byte = self.selected.get(self.offset).copied();
        self.offset += usize::from(byte.is_some());
        byte.unwrap_or(0)
    }
}

impl Registers for FwCfg {
    fn read(&self, access: Access) -> u64 {
        match access.offset {
            // The ports of the selector and of the data are one register for reads, as in QEMU.
            SELECTOR | DATA if access.width == 1 => u64::from(self.lock().next_byte()),
            DMA_ADDRESS..=0x0b => {
                let bytes = DMA_SIGNATURE.to_be_bytes();
                let at = (access.offset - DMA_ADDRESS) as usize;
                let end = (at + usize::from(access.width)).min(bytes.len());
                let mut value = [0; 8];
                value[..end - at].copy_from_slice(&bytes[at..end]);
                u64::from_le_bytes(value)
            }
            _ => 0,
        }
    }

    fn write(&self, access: Access, value: u64) {
        match (access.offset, access.width) {
            (SELECTOR, 2) => self.lock().select(value as u16),
            (DMA_ADDRESS, 4) => self.lock().address_high = (value as u32).swap_bytes(),
            (0x08, 4) => {
                let high = std::mem::take(&mut self.lock().address_high);
                self.transfer(u64::from(high) << 32 | u64::from((value as u32).swap_bytes()));
            }
            (DMA_ADDRESS, 8) => {
                self.lock().address_high = 0;
                self.transfer(value.swap_bytes());
            }
            // Writing to items has no effect since QEMU 2.4.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
