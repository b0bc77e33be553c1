//! Mode pages: MODE SENSE and MODE SELECT (SPC-5, 6.9 to 6.12 and 7.5; SBC-4, 6.5; MMC-6, 7.2).

use spindle_block::Root;

use super::{
    saving,
    sense::Sense,
    spec::asc,
    unit::{UnitConfig, UnitKind},
};

/// Page codes (SPC-5, 7.5.1).
mod page {
    pub const ERROR_RECOVERY: u8 = 0x01;
    pub const CACHING: u8 = 0x08;
    pub const CONTROL: u8 = 0x0a;
    pub const EXCEPTIONS: u8 = 0x1c;
    pub const CAPABILITIES: u8 = 0x2a;
    pub const ALL: u8 = 0x3f;
    pub const ALL_SUBPAGES: u8 = 0xff;
}

/// PS: the page can be saved.
const SAVABLE: u8 = 0x80;
/// SPF: the page has a subpage code.
const SUBPAGE_FORMAT: u8 = 0x40;
/// WCE in byte 2 of the caching page.
const WRITE_CACHE: u8 = 0x04;
/// D_SENSE in byte 2 of the control page.
const DESCRIPTOR_SENSE: u8 = 0x04;
/// GLTSD in byte 2 of the control page: no log parameters are saved.
const NO_LOG_SAVING: u8 = 0x02;
/// SWP in byte 4 of the control page.
const SOFTWARE_WRITE_PROTECT: u8 = 0x08;
/// QUEUE ALGORITHM MODIFIER 1 in byte 3 of the control page: commands may be reordered.
const UNRESTRICTED_REORDERING: u8 = 0x10;

/// What PC asks for (SPC-5, 6.11.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    Current,
    Changeable,
    Default,
    Saved,
}

/// What initiators can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Values {
    pub write_cache: bool,
    pub descriptor_sense: bool,
    pub write_protect: bool,
}

/// The mode parameters of a unit: shared by all initiators.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    kind: UnitKind,
    default: Values,
    /// What a reset and a power-on begin with.
    saved: Values,
    current: Values,
    can_save: bool,
}

/// What a medium is like, as the header and the block descriptor tell it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Medium {
    pub blocks: u64,
    pub block_size: u32,
    pub read_only: bool,
    pub locked: bool,
}

/// The fields of a MODE SENSE.
#[derive(Clone, Copy, Debug)]
pub(super) struct SenseRequest {
    pub ten: bool,
    pub long_lba: bool,
    pub no_blocks: bool,
    pub control: u8,
    pub page: u8,
    pub subpage: u8,
}

impl Mode {
    pub fn new(config: &UnitConfig, root: Option<&Root>) -> Self {
        let through = root.is_some_and(|root| root.policy().write_through);
        let write_cache = config.write_cache && !through && config.kind == UnitKind::Disk;
        let default = Values { write_cache, descriptor_sense: false, write_protect: false };
        let saved = saving::load(config).unwrap_or(default);
        let can_save = saving::can_save(config);
        Self { kind: config.kind, default, saved, current: saved, can_save }
    }

    pub fn reset(&mut self) {
        self.current = self.saved;
    }

    pub fn can_save(&self) -> bool {
        self.can_save
    }

    /// All pages are saved as they are.
    pub fn save(&mut self) {
        self.saved = self.current;
    }

    pub fn saved(&self) -> Values {
        self.saved
    }

    pub fn write_protected(&self) -> bool {
        self.current.write_protect
    }

    pub fn descriptor_sense(&self) -> bool {
        self.current.descriptor_sense
    }

    /// Makes the disk's cache mode what the caching page says.
    pub fn apply(&self, root: Option<&Root>) {
        let through = !self.current.write_cache;
        if let Some(root) = root
            && self.kind == UnitKind::Disk
            && root.policy().write_through != through
        {
            root.set_policy(|policy| policy.write_through = through);
        }
    }

    fn list(&self) -> &'static [(u8, u8)] {
        match self.kind {
            UnitKind::Disk => &[
                (page::ERROR_RECOVERY, 0),
                (page::CACHING, 0),
                (page::CONTROL, 0),
                (page::CONTROL, 1),
                (page::EXCEPTIONS, 0),
            ],
            UnitKind::Cd => {
                &[(page::ERROR_RECOVERY, 0), (page::CONTROL, 0), (page::CAPABILITIES, 0)]
            }
        }
    }

    /// A page, with its header. `None`: there is no such page.
    fn page(&self, page: u8, subpage: u8, control: Control, locked: bool) -> Option<Vec<u8>> {
        if !self.list().contains(&(page, subpage)) {
            return None;
        }
        let all = Values { write_cache: true, descriptor_sense: true, write_protect: true };
        let (values, fixed) = match control {
            Control::Current => (self.current, true),
            Control::Default => (self.default, true),
            Control::Saved => (self.saved, true),
            Control::Changeable => (all, false),
        };
        let writable = self.kind == UnitKind::Disk;
        let if_set = |on: bool, bits: u8| if on { bits } else { 0 };
        let if_fixed = |bits: u8| if fixed { bits } else { 0 };
        let mut bytes = vec![0; page_len(page, subpage)];
        match (page, subpage) {
            // AWRE: blocks are moved by the medium itself.
            (page::ERROR_RECOVERY, _) if writable => bytes[2] = if_fixed(0x80),
            (page::CACHING, _) => bytes[2] = if_set(values.write_cache, WRITE_CACHE),
            (page::CONTROL, 0) => {
                bytes[2] =
                    if_set(values.descriptor_sense, DESCRIPTOR_SENSE) | if_fixed(NO_LOG_SAVING);
                bytes[3] = if_fixed(UNRESTRICTED_REORDERING);
                bytes[4] = if_set(values.write_protect && writable, SOFTWARE_WRITE_PROTECT);
            }
            (page::CAPABILITIES, _) if fixed => {
                // Reads CD-R, CD-RW, DVD-ROM and DVD-R; has a tray that can be locked and ejected.
                bytes[2] = 0x1b;
                bytes[6] = 0x29 | if_set(locked, 0x02);
                // Speeds in units of 1000 bytes a second; a buffer of 2 MiB.
                bytes[8..10].copy_from_slice(&(50 * 176u16).to_be_bytes());
                bytes[12..14].copy_from_slice(&2048u16.to_be_bytes());
                bytes[14..16].copy_from_slice(&(50 * 176u16).to_be_bytes());
            }
            _ => {}
        }
        if subpage == 0 {
            let savable = self.can_save && matches!(page, page::CACHING | page::CONTROL);
            bytes[0] = page | if_set(savable, SAVABLE);
            bytes[1] = (bytes.len() - 2) as u8;
        } else {
            bytes[0] = page | SUBPAGE_FORMAT;
            bytes[1] = subpage;
            let len = (bytes.len() - 4) as u16;
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
        }
        Some(bytes)
    }

    /// The answer to MODE SENSE.
    pub fn sense(&self, request: &SenseRequest, medium: Medium) -> Result<Vec<u8>, Sense> {
        let control = match request.control {
            0 => Control::Current,
            1 => Control::Changeable,
            2 => Control::Default,
            _ if self.can_save => Control::Saved,
            _ => return Err(Sense::illegal(asc::SAVING_NOT_SUPPORTED)),
        };
        let mut pages = Vec::new();
        if request.page == page::ALL {
            if !matches!(request.subpage, 0 | page::ALL_SUBPAGES) {
                return Err(Sense::cdb_field(3, None));
            }
            for (page, subpage) in self.list() {
                if *subpage == 0 || request.subpage == page::ALL_SUBPAGES {
                    pages.extend(
                        self.page(*page, *subpage, control, medium.locked).unwrap_or_default(),
                    );
                }
            }
        } else {
            let matching = self.list().iter().filter(|(page, _)| *page == request.page);
            let mut found = false;
            for (page, subpage) in matching {
                found = true;
                if request.subpage == *subpage || request.subpage == page::ALL_SUBPAGES {
                    pages.extend(
                        self.page(*page, *subpage, control, medium.locked).unwrap_or_default(),
                    );
                }
            }
            if pages.is_empty() {
                let (byte, bit) = if found { (3, None) } else { (2, Some(5)) };
                return Err(Sense::cdb_field(byte, bit));
            }
        }
        let descriptor = block_descriptor(request, medium);
        // WP, DPOFUA (SBC-4, 6.5.1); a drive has neither (MMC-6, 7.1).
        let specific = match self.kind {
            UnitKind::Disk => u8::from(medium.read_only || self.current.write_protect) << 7 | 0x10,
            UnitKind::Cd => 0,
        };
        let mut reply = if request.ten {
            let len = (6 + descriptor.len() + pages.len()) as u16;
            let [len_high, len_low] = len.to_be_bytes();
            let long = u8::from(descriptor.len() == 16);
            vec![len_high, len_low, 0, specific, long, 0, 0, descriptor.len() as u8]
        } else {
            let len = 3 + descriptor.len() + pages.len();
            vec![len.min(0xff) as u8, 0, specific, descriptor.len() as u8]
        };
        reply.extend(descriptor);
        reply.extend(pages);
        Ok(reply)
    }

    /// What a MODE SELECT's parameter list asks for, checked as a whole before anything changes.
    /// Returns whether anything did.
    pub fn select(&mut self, ten: bool, list: &[u8], medium: Medium) -> Result<bool, Sense> {
        if list.is_empty() {
            return Ok(false);
        }
        let header = if ten { 8 } else { 4 };
        if list.len() < header {
            return Err(Sense::parameter_length());
        }
        let (long, descriptor) = if ten {
            (list[4] & 1 != 0, usize::from(u16::from_be_bytes([list[6], list[7]])))
        } else {
            (false, usize::from(list[3]))
        };
        let medium_type = list[if ten { 2 } else { 1 }];
        if medium_type != 0 {
            return Err(Sense::parameter(if ten { 2 } else { 1 }, None));
        }
        let expected = if long { 16 } else { 8 };
        if descriptor != 0 && descriptor != expected {
            return Err(Sense::parameter(if ten { 6 } else { 3 }, None));
        }
        if list.len() < header + descriptor {
            return Err(Sense::parameter_length());
        }
        check_descriptor(&list[header..header + descriptor], header, medium)?;
        let mut at = header + descriptor;
        let mut next = *self;
        while at < list.len() {
            at = next.take_page(list, at, medium.locked)?;
        }
        let changed = next.current != self.current;
        *self = next;
        Ok(changed)
    }

    /// Takes over one page of a parameter list. Returns where the next one is.
    fn take_page(&mut self, list: &[u8], at: usize, locked: bool) -> Result<usize, Sense> {
        let rest = &list[at..];
        let long = rest[0] & SUBPAGE_FORMAT != 0;
        if rest.len() < if long { 4 } else { 2 } {
            return Err(Sense::parameter_length());
        }
        let (code, subpage) = (rest[0] & 0x3f, if long { rest[1] } else { 0 });
        // A subpage of zero has no such form.
        let known = if long && subpage == 0 {
            None
        } else {
            self.page(code, subpage, Control::Current, locked)
        };
        let current = known.ok_or(Sense::parameter(at as u16, Some(5)))?;
        let changeable = self.page(code, subpage, Control::Changeable, locked).unwrap_or_default();
        let header = if long { 4 } else { 2 };
        if rest[header - 1] != current[header - 1] || (long && rest[2] != current[2]) {
            return Err(Sense::parameter((at + header - 1) as u16, None));
        }
        let new = rest.get(..current.len()).ok_or(Sense::parameter_length())?;
        for i in header..current.len() {
            if (new[i] ^ current[i]) & !changeable[i] != 0 {
                return Err(Sense::parameter((at + i) as u16, None));
            }
        }
        match (code, subpage) {
            (page::CACHING, 0) => self.current.write_cache = new[2] & WRITE_CACHE != 0,
            (page::CONTROL, 0) => {
                self.current.descriptor_sense = new[2] & DESCRIPTOR_SENSE != 0;
                self.current.write_protect = new[4] & SOFTWARE_WRITE_PROTECT != 0;
            }
            _ => {}
        }
        Ok(at + current.len())
    }
}

/// Length of a page, header included, in bytes.
fn page_len(page: u8, subpage: u8) -> usize {
    match (page, subpage) {
        (page::CACHING, _) => 20,
        (page::CONTROL, 1) => 32,
        (page::CAPABILITIES, _) => 22,
        _ => 12,
    }
}

/// The block descriptor (SBC-4, 6.5.2): short, or with long LBAs where they were allowed.
fn block_descriptor(request: &SenseRequest, medium: Medium) -> Vec<u8> {
    if request.no_blocks || medium.blocks == 0 {
        return Vec::new();
    }
    let size = medium.block_size.to_be_bytes();
    if request.long_lba {
        let mut bytes = medium.blocks.to_be_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(size);
        return bytes;
    }
    let mut bytes = u32::try_from(medium.blocks).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    // Byte 4 is the density code, always zero.
    bytes.extend(size);
    bytes
}

/// Neither the number of blocks nor their size can be changed.
fn check_descriptor(bytes: &[u8], at: usize, medium: Medium) -> Result<(), Sense> {
    let field = |from: usize, len: usize| {
        bytes[from..from + len].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    };
    let (blocks, all, size_at) = match bytes.len() {
        0 => return Ok(()),
        8 => (field(0, 4), u64::from(u32::MAX), 5),
        _ => (field(0, 8), u64::MAX, 12),
    };
    if blocks != 0 && blocks != all && blocks != medium.blocks {
        return Err(Sense::parameter(at as u16, None));
    }
    let size = field(size_at, bytes.len() - size_at);
    if size != u64::from(medium.block_size) {
        return Err(Sense::parameter((at + size_at) as u16, None));
    }
    Ok(())
}
