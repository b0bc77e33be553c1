//! What the kernel says about an open file: kind, size, alignment, discard.

use std::{
    fs, io,
    os::fd::{AsRawFd, BorrowedFd},
    path::PathBuf,
};

/// `_IOR(0x12, 114, size_t)`: a device's size in bytes (`linux/fs.h`).
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272_u32 as libc::Ioctl;
/// `_IO(0x12, 104)`: a device's logical block size in bytes.
const BLKSSZGET: libc::Ioctl = 0x1268;
/// `_IO(0x12, 123)`: a device's physical block size in bytes.
const BLKPBSZGET: libc::Ioctl = 0x127b;
/// `_IO(0x12, 94)`: whether a device is read-only.
const BLKROGET: libc::Ioctl = 0x125e;

/// The greatest alignment believed: O_DIRECT on 4 KiB sectors.
const ALIGN_MAX: u32 = 4096;
/// The least: a sector.
const SECTOR: u32 = 512;

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// A block device.
    Block,
    /// Something that is no image: its name.
    Other(&'static str),
}

/// What a file is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What kind of file it is.
    pub kind: Kind,
    /// Its length in bytes.
    pub size: u64,
    /// The file system's (or device's) preferred block, in bytes.
    pub block: u32,
    /// Logical block size of a device in bytes; 1 for files.
    pub logical_block: u32,
    /// The smallest discard that can have an effect, in bytes; 0: none has.
    pub discard_granularity: u32,
    /// The device takes no writes.
    pub read_only: bool,
    /// Device and inode number: what file it is, whatever its name.
    pub identity: (u64, u64),
    /// Bytes of storage in use.
    pub allocated: u64,
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Looks at an open file.
///
/// # Errors
/// What the system calls say.
pub fn facts(fd: BorrowedFd<'_>) -> io::Result<Facts> {
    // SAFETY: all-zero is a valid stat64.
    let mut st: libc::stat64 = unsafe { std::mem::zeroed() };
    // SAFETY: a valid structure for the kernel to fill.
    check(unsafe { libc::fstat64(fd.as_raw_fd(), &raw mut st) })?;
    let kind = match st.st_mode & libc::S_IFMT {
        libc::S_IFREG => Kind::Regular,
        libc::S_IFBLK => Kind::Block,
        libc::S_IFDIR => Kind::Other("a directory"),
        libc::S_IFIFO => Kind::Other("a pipe"),
        libc::S_IFSOCK => Kind::Other("a socket"),
        libc::S_IFCHR => Kind::Other("a character device"),
        _ => Kind::Other("a special file"),
    };
    let block = u32::try_from(st.st_blksize).unwrap_or(ALIGN_MAX).clamp(SECTOR, 2 << 20);
    let mut facts = Facts {
        kind,
        size: u64::try_from(st.st_size).unwrap_or(0),
        block: if block.is_power_of_two() { block } else { ALIGN_MAX },
        logical_block: 1,
        discard_granularity: ALIGN_MAX,
        read_only: false,
        identity: (st.st_dev, st.st_ino),
        allocated: u64::try_from(st.st_blocks).unwrap_or(0).saturating_mul(512),
    };
    if kind == Kind::Block {
        device_facts(fd, st.st_rdev, &mut facts)?;
    }
    Ok(facts)
}

fn device_facts(fd: BorrowedFd<'_>, device: u64, facts: &mut Facts) -> io::Result<()> {
    facts.size = device_size(fd)?;
    facts.logical_block = sane_block(device_number(fd, BLKSSZGET)?);
    facts.block = sane_block(device_number(fd, BLKPBSZGET)?).max(facts.logical_block);
    facts.read_only = device_number(fd, BLKROGET)? != 0;
    facts.discard_granularity = discard_granularity(device);
    facts.identity = (u64::MAX, device);
    Ok(())
}

/// A device's size in bytes.
///
/// # Errors
/// When it is no block device, or gone.
pub fn device_size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut size = 0u64;
    // SAFETY: this request stores eight bytes.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), BLKGETSIZE64, &raw mut size) })?;
    Ok(size)
}

fn device_number(fd: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: these requests store an int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut number) })?;
    Ok(number)
}

/// A block size as devices report it, within what the block layer believes.
pub(super) fn sane_block(reported: u32) -> u32 {
    if reported.is_power_of_two() { reported.clamp(SECTOR, ALIGN_MAX) } else { ALIGN_MAX }
}

/// From sysfs; a partition has its disk's.
fn discard_granularity(device: u64) -> u32 {
    let base =
        PathBuf::from(format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device)));
    ["queue", "../queue"]
        .iter()
        .find_map(|queue| fs::read_to_string(base.join(queue).join("discard_granularity")).ok())
        .map_or(0, |text| parse_granularity(&text))
}

/// The granularity in bytes that sysfs prints; what makes no sense is "none".
pub(super) fn parse_granularity(text: &str) -> u32 {
    text.trim().parse().unwrap_or(0)
}

/// What O_DIRECT asks of offsets and lengths, and of memory, in bytes. `None`: this file cannot be
/// used with O_DIRECT.
#[must_use]
pub fn direct_alignment(fd: BorrowedFd<'_>, facts: &Facts) -> Option<(u32, u32)> {
    // SAFETY: all-zero is a valid statx.
    let mut st: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an empty path with AT_EMPTY_PATH means the descriptor itself.
    let done = unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut st,
        )
    } == 0;
    if done && st.stx_mask & libc::STATX_DIOALIGN != 0 {
        return reported_alignment(st.stx_dio_offset_align, st.stx_dio_mem_align, facts);
    }
    if facts.kind == Kind::Block {
        return Some((facts.logical_block, facts.logical_block));
    }
    // An empty file takes any read: be careful.
    let offset = if facts.size == 0 { ALIGN_MAX } else { probe_reads(fd) };
    Some((offset, offset))
}

/// What `statx` said, made sane; zero means that the file takes no direct I/O.
pub(super) fn reported_alignment(offset: u32, memory: u32, facts: &Facts) -> Option<(u32, u32)> {
    if offset == 0 || offset > ALIGN_MAX || !offset.is_power_of_two() {
        return None;
    }
    let memory = if memory.is_power_of_two() { memory.min(ALIGN_MAX) } else { ALIGN_MAX };
    Some((offset.max(SECTOR).max(facts.logical_block), memory))
}

/// The smallest aligned read that the file takes.
fn probe_reads(fd: BorrowedFd<'_>) -> u32 {
    let buf = crate::IoBuf::zeroed(ALIGN_MAX as usize);
    let Some(base) = buf.iovecs().first().map(|v| v.iov_base) else { return ALIGN_MAX };
    for len in [SECTOR, 1024, 2048] {
        // SAFETY: `len` bytes of the buffer, for the kernel to fill.
        if unsafe { libc::pread64(fd.as_raw_fd(), base, len as usize, 0) } >= 0 {
            return len;
        }
    }
    ALIGN_MAX
}
