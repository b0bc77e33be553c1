//! Locks that keep a second writer from an image, compatible with QEMU's.
//!
//! QEMU (`block/file-posix.c`, since 2.10) takes *open file description* locks on single bytes of
//! the image: byte `100 + n` says "I use permission n", byte `200 + n` says "nobody else may use
//! permission n". All of them are shared locks; a conflict is found by asking whether an exclusive
//! lock on the opposite byte *could* be taken. Programs that take the same bytes refuse each other's
//! images; nothing is ever written.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

/// First byte that says which permissions are used (`RAW_LOCK_PERM_BASE`).
const USED_BASE: i64 = 100;
/// First byte that says which permissions others may not use (`RAW_LOCK_SHARED_BASE`).
const DENIED_BASE: i64 = 200;
/// Permissions there are: the low bits of [`Mode`]'s masks.
const COUNT: u8 = 4;

/// Reads need the content to be consistent (`BLK_PERM_CONSISTENT_READ`).
pub const CONSISTENT_READ: u8 = 1;
/// The content changes (`BLK_PERM_WRITE`).
pub const WRITE: u8 = 2;
/// Writes that change nothing a reader can see (`BLK_PERM_WRITE_UNCHANGED`).
pub const WRITE_UNCHANGED: u8 = 4;
/// The length changes (`BLK_PERM_RESIZE`).
pub const RESIZE: u8 = 8;

/// What a user of an image does with it, and what it suffers others to do meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Permissions used.
    pub used: u8,
    /// Permissions that others may use at the same time.
    pub shared: u8,
}

impl Mode {
    /// Reads, beside other readers.
    pub const READER: Self =
        Self { used: CONSISTENT_READ, shared: CONSISTENT_READ | WRITE_UNCHANGED };
    /// Reads and writes, alone.
    pub const WRITER: Self =
        Self { used: CONSISTENT_READ | WRITE | RESIZE, shared: CONSISTENT_READ | WRITE_UNCHANGED };
    /// Reads whatever others do (`force-share=on`): what it sees may be inconsistent.
    pub const ONLOOKER: Self =
        Self { used: CONSISTENT_READ, shared: CONSISTENT_READ | WRITE | WRITE_UNCHANGED | RESIZE };

    /// The same, beside other writers (`share-rw=on`: the guests have a cluster file system).
    #[must_use]
    pub fn share_rw(self) -> Self {
        Self { used: self.used & !RESIZE, shared: self.shared | WRITE }
    }
}

/// Why an image is not locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else uses the image in a way that this user does not suffer.
    #[error("another program {} it", match *used { WRITE => "writes to", _ => "resizes" })]
    InUse {
        /// What the other does: one permission.
        used: u8,
    },
    /// Somebody else does not suffer what this user wants to do.
    #[error("another program has it open and does not allow others to {} it",
        match *wanted { WRITE => "write to", RESIZE => "resize", _ => "read" })]
    Denied {
        /// What was wanted: one permission.
        wanted: u8,
    },
    /// The file system has no locks.
    #[error("its file system has no locks ({0})")]
    Unsupported(io::Error),
    /// The locks could not be set for another reason.
    #[error("locking failed ({0})")]
    Failed(io::Error),
}

/// How often, and how far apart, an image that is in use is tried again. The kernel closes the files
/// of a killed program's io_uring a moment after the program has ended.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// Locks the image behind `fd` until [`release`] or until its last descriptor closes. One that is in
/// use is tried again for half a second.
///
/// # Errors
/// See [`LockError`]; no lock is left behind then.
pub fn acquire(fd: BorrowedFd<'_>, mode: Mode) -> Result<(), LockError> {
    for _ in 1..TRIES {
        match acquire_now(fd, mode) {
            Err(LockError::InUse { .. } | LockError::Denied { .. }) => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    acquire_now(fd, mode)
}

fn acquire_now(fd: BorrowedFd<'_>, mode: Mode) -> Result<(), LockError> {
    let result = take(fd, mode).and_then(|()| check(fd, mode));
    if result.is_err() {
        release(fd);
    }
    result
}

/// Gives up every lock taken through `fd`.
pub fn release(fd: BorrowedFd<'_>) {
    for base in [USED_BASE, DENIED_BASE] {
        let lock = byte_lock(libc::F_UNLCK, base, i64::from(COUNT));
        // SAFETY: a plain system call with a valid structure. Unlocking what is locked or not
        // cannot fail in a way that could be answered.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    }
}

/// The permissions in `mask`, with their numbers.
fn bits(mask: u8) -> impl Iterator<Item = (i64, u8)> {
    (0..COUNT).map(|n| (i64::from(n), 1 << n)).filter(move |(_, bit)| mask & bit != 0)
}

fn take(fd: BorrowedFd<'_>, mode: Mode) -> Result<(), LockError> {
    for (n, wanted) in bits(mode.used) {
        set(fd, USED_BASE + n).map_err(|e| refine(e, LockError::Denied { wanted }))?;
    }
    for (n, used) in bits(!mode.shared) {
        set(fd, DENIED_BASE + n).map_err(|e| refine(e, LockError::InUse { used }))?;
    }
    Ok(())
}

fn check(fd: BorrowedFd<'_>, mode: Mode) -> Result<(), LockError> {
    for (n, used) in bits(!mode.shared) {
        if held_by_another(fd, USED_BASE + n)? {
            return Err(LockError::InUse { used });
        }
    }
    for (n, wanted) in bits(mode.used) {
        if held_by_another(fd, DENIED_BASE + n)? {
            return Err(LockError::Denied { wanted });
        }
    }
    Ok(())
}

/// A busy byte is `busy`: somebody holds it exclusively, which QEMU never does.
fn refine(error: io::Error, busy: LockError) -> LockError {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => busy,
        Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL) => {
            LockError::Unsupported(error)
        }
        _ => LockError::Failed(error),
    }
}

fn byte_lock(kind: i32, start: i64, len: i64) -> libc::flock64 {
    // SAFETY: all-zero is a valid flock64, and what open file description locks ask for in l_pid.
    let mut lock: libc::flock64 = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = start;
    lock.l_len = len;
    lock
}

fn set(fd: BorrowedFd<'_>, byte: i64) -> io::Result<()> {
    let lock = byte_lock(libc::F_RDLCK, byte, 1);
    // SAFETY: a plain system call with a valid structure.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn held_by_another(fd: BorrowedFd<'_>, byte: i64) -> Result<bool, LockError> {
    let mut lock = byte_lock(libc::F_WRLCK, byte, 1);
    // SAFETY: as above; the kernel writes to the structure.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        0 => Ok(i32::from(lock.l_type) != libc::F_UNLCK),
        _ => {
            let error = io::Error::last_os_error();
            Err(refine(error, LockError::Failed(io::Error::from_raw_os_error(libc::EAGAIN))))
        }
    }
}

#[cfg(test)]
mod tests;
