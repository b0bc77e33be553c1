//! bzImage: the setup header of the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst).

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage as Loader, KernelLoader};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryBackend};

use super::Start;
use crate::cpu_state::Protocol;
use crate::error::BootError;
use crate::image::BootProtocol;
use crate::memory_map::{AddressRange, HIGH_MEMORY_START};
use crate::source::Source;

/// Offset of the setup header, in the image and in the zero page alike.
pub(crate) const HEADER_OFFSET: usize = 0x1F1;
const HEADER_LEN: usize = size_of::<setup_header>();
const MAGIC_OFFSET: usize = 0x202;
const MAGIC: &[u8; 4] = b"HdrS";
const SECTOR: u64 = 512;
/// Where the 64-bit entry is in the protected-mode code.
const ENTRY_64: u64 = 0x200;
/// Boot protocol 2.12 (Linux 3.8): the first to announce a 64-bit entry.
const VERSION_MIN: u16 = 0x020C;
const LOADED_HIGH: u8 = 1 << 0;
const XLF_KERNEL_64: u16 = 1 << 0;
const BOOT_FLAG: u16 = 0xAA55;

/// A bzImage whose header was checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BzImage {
    header: setup_header,
    /// Length of the protected-mode code in the file.
    payload: u64,
}

/// Whether `head` carries the magic number of a setup header.
pub(super) fn has_setup_header(head: &[u8]) -> bool {
    head.get(MAGIC_OFFSET..MAGIC_OFFSET + 4) == Some(MAGIC)
}

/// The setup header in `head`, without the bytes that this kernel's version of it does not have.
fn read_header(head: &[u8]) -> Option<setup_header> {
    let bytes = head.get(HEADER_OFFSET..HEADER_OFFSET + HEADER_LEN)?;
    // The second byte of the jump at 0x200 tells where the header ends.
    let end = MAGIC_OFFSET + usize::from(*head.get(MAGIC_OFFSET - 1)?) - HEADER_OFFSET;
    let mut header = setup_header::default();
    let used = end.min(HEADER_LEN);
    header.as_mut_slice()[..used].copy_from_slice(&bytes[..used]);
    Some(header)
}

impl BzImage {
    pub(super) fn inspect(source: &Source, head: &[u8]) -> Result<Self, BootError> {
        let len = source.len()?;
        let truncated =
            |part, needed| BootError::Truncated { path: source.path(), part, needed, have: len };
        let header = read_header(head)
            .ok_or_else(|| truncated("the setup header", (HEADER_OFFSET + HEADER_LEN) as u64))?;
        check_header(source, &header)?;
        let sectors = match header.setup_sects {
            0 => 4,
            n => u64::from(n),
        };
        let start = (sectors + 1) * SECTOR;
        let code = u64::from(header.syssize) * 16;
        let needed = start + code.max(ENTRY_64 + 1);
        if len < needed {
            return Err(truncated("the compressed kernel", needed));
        }
        Ok(Self { header, payload: len - start })
    }

    /// The setup header, for the zero page.
    pub(crate) fn header(&self) -> setup_header {
        self.header
    }

    pub(super) fn command_line_max(&self) -> usize {
        self.header.cmdline_size as usize
    }

    pub(super) fn initrd_end_max(&self) -> u64 {
        u64::from(self.header.initrd_addr_max) + 1
    }

    /// The preferred address and the space that the kernel wants there until it knows its memory map.
    pub(super) fn range(&self, source: &Source) -> Result<AddressRange, BootError> {
        let start = self.header.pref_address.max(HIGH_MEMORY_START);
        let size = self.payload.max(u64::from(self.header.init_size));
        let end = start.checked_add(size).ok_or_else(|| BootError::Malformed {
            path: source.path(),
            why: format!("its preferred address {start:#x} is beyond any memory"),
        })?;
        Ok(AddressRange::new(start, end))
    }

    pub(super) fn load<M: GuestMemoryBackend>(
        source: &Source,
        memory: &M,
        range: AddressRange,
        wanted: BootProtocol,
    ) -> Result<Start, BootError> {
        if wanted == BootProtocol::Pvh {
            return Err(BootError::Unsupported {
                path: source.path(),
                why: "a bzImage has no PVH entry; give the uncompressed ELF vmlinux, or leave the \
                      boot protocol to be chosen"
                    .into(),
            });
        }
        let address = GuestAddress(range.start);
        let loaded = Loader::load(memory, Some(address), &mut source.file(), None)
            .map_err(|e| BootError::LoadKernel { path: source.path(), source: e })?;
        if loaded.kernel_end > range.end {
            return Err(super::changed(source));
        }
        Ok(Start { entry: range.start + ENTRY_64, protocol: Protocol::Linux64 })
    }
}

fn check_header(source: &Source, header: &setup_header) -> Result<(), BootError> {
    let unsupported = |why: String| Err(BootError::Unsupported { path: source.path(), why });
    let malformed = |why: String| Err(BootError::Malformed { path: source.path(), why });
    let (boot_flag, version, xloadflags, alignment) =
        (header.boot_flag, header.version, header.xloadflags, header.kernel_alignment);
    if boot_flag != BOOT_FLAG {
        return malformed(format!("its boot flag is {boot_flag:#06x}, not {BOOT_FLAG:#06x}"));
    }
    if version < VERSION_MIN {
        return unsupported(format!(
            "it speaks boot protocol {}.{:02}, and the 64-bit entry came with 2.12 (Linux 3.8)",
            version >> 8,
            version & 0xFF
        ));
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return unsupported("it is a zImage, made to be loaded below 640 KiB".into());
    }
    if xloadflags & XLF_KERNEL_64 == 0 {
        return unsupported("it is a 32-bit kernel; give one built for x86-64".into());
    }
    if header.relocatable_kernel != 0 {
        let start = header.pref_address.max(HIGH_MEMORY_START);
        if !alignment.is_power_of_two() || !start.is_multiple_of(alignment.into()) {
            return malformed(format!(
                "its preferred address {start:#x} is not aligned to {alignment:#x} as it asks itself"
            ));
        }
    }
    Ok(())
}
