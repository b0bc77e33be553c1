//! The host's own NBD client: `/dev/nbdN` (Linux, `include/uapi/linux/nbd.h`).
use spindle_block::nodes::nbd::{Negotiated, negotiate};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// `_IO(0xab, N)`.
mod request {
    use libc::c_ulong;

    pub const SET_SOCK: c_ulong = 0xab00;
    pub const SET_BLKSIZE: c_ulong = 0xab01;
    pub const DO_IT: c_ulong = 0xab03;
    pub const CLEAR_SOCK: c_ulong = 0xab04;
    pub const CLEAR_QUE: c_ulong = 0xab05;
    pub const SET_SIZE_BLOCKS: c_ulong = 0xab07;
    pub const DISCONNECT: c_ulong = 0xab08;
    pub const SET_FLAGS: c_ulong = 0xab0a;
    /// `include/uapi/linux/fs.h`.
    pub const BLKROSET: c_ulong = 0x125d;
}

/// The kernel counts such blocks, in bytes.
const BLOCK: u64 = 512;
/// "Only for reading", of the flags of an export (NBD protocol, "Transmission flags").
const READ_ONLY: u16 = 1 << 1;

/// A device of the kernel's.
pub(super) struct Device {
    file: File,
    path: PathBuf,
}

fn reason(error: io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

impl Device {
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file =
            file.map_err(|error| format!("Failed to open {}: {}", path.display(), reason(error)));
        Ok(Self { file: file?, path: path.to_owned() })
    }

    /// A request whose argument is a number.
    fn ask(&self, request: libc::c_ulong, argument: u64) -> io::Result<()> {
        // SAFETY: these requests take a number, or nothing at all; no memory of ours is touched.
        let done = unsafe { libc::ioctl(self.file.as_raw_fd(), request, argument) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn set_read_only(&self) -> io::Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the kernel reads an integer of ours.
        let done = unsafe { libc::ioctl(self.file.as_raw_fd(), request::BLKROSET, &raw const on) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Gives the device this disk, which the other end of `stream` serves. It is one until the thread
    /// that is returned ends: when it is disconnected, or the server has gone.
    ///
    /// # Errors
    ///
    /// One sentence: a device that is in use, or is none.
    pub fn attach(self, stream: UnixStream, name: &str) -> Result<JoinHandle<()>, String> {
        let failed = |what: &'static str| {
            let path = self.path.display();
            move |error| format!("Failed to {what} of {path}: {}", reason(error))
        };
        let Negotiated { size, flags } =
            negotiate(&stream, name).map_err(failed("agree on the disk"))?;
        self.ask(request::SET_SOCK, stream.as_raw_fd() as u64)
            .map_err(failed("set the NBD socket"))?;
        let set_up = || {
            self.ask(request::SET_BLKSIZE, BLOCK).map_err(failed("set the NBD block size"))?;
            self.ask(request::SET_SIZE_BLOCKS, size / BLOCK).map_err(failed("set the size"))?;
            match self.ask(request::SET_FLAGS, flags.into()) {
                // A kernel from before there were flags.
                Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {}
                done => done.map_err(failed("set the NBD flags"))?,
            }
            if flags & READ_ONLY != 0 {
                self.set_read_only().map_err(failed("set the read-only attribute"))?;
            }
            Ok(())
        };
        if let Err(sentence) = set_up() {
            // The first error is the one to tell.
            let _ = self.ask(request::CLEAR_SOCK, 0);
            return Err(sentence);
        }
        let work = move || {
            // It returns when there is no connection any more, which is an error or not.
            let _ = self.ask(request::DO_IT, 0);
            let _ = self.ask(request::CLEAR_QUE, 0);
            let _ = self.ask(request::CLEAR_SOCK, 0);
            drop(stream);
        };
        std::thread::Builder::new()
            .name("nbd-device".to_owned())
            .spawn(work)
            .map_err(|error| format!("cannot start a thread: {error}"))
    }
}

/// Takes its disk away from a device: `-d`.
///
/// # Errors
///
/// One sentence: there is no such device.
pub fn disconnect(path: &Path) -> Result<(), String> {
    let device = Device::open(path)?;
    // One that has no disk has nothing to lose.
    for request in [request::CLEAR_QUE, request::DISCONNECT, request::CLEAR_SOCK] {
        let _ = device.ask(request, 0);
    }
    Ok(())
}
