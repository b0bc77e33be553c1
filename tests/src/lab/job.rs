//! Jobs for guests: a second small initramfs archive behind the image's own, so that no image is rebuilt
//! for a test.
//!
//! Format: "new ASCII" cpio, `Documentation/driver-api/early-userspace/buffer-format.rst` of Linux.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::LabError;

/// A script for the guest and the files it needs beside it, as `/job.sh` and `/job/NAME`.
#[derive(Debug, Clone, Default)]
pub struct Job {
    script: String,
    files: Vec<(String, Vec<u8>)>,
}

impl Job {
    /// A job that runs a shell script. Its exit status is the job's.
    pub fn new(script: impl Into<String>) -> Self {
        Self { script: script.into(), files: Vec::new() }
    }

    /// Adds a file, which the guest finds as `job/NAME` beside its working directory's `job.sh`.
    pub fn with_file(mut self, name: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.into(), content.into()));
        self
    }

    /// Writes the job as an archive of its own.
    ///
    /// # Errors
    ///
    /// Whatever writing gives.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut inode = 0x10_0000;
        let mut entry = |out: &mut _, name: &str, mode, content: &[u8]| {
            inode += 1;
            write_entry(out, inode, name, mode, content)
        };
        entry(out, "job.sh", 0o100_755, self.script.as_bytes())?;
        if !self.files.is_empty() {
            entry(out, "job", 0o040_755, &[])?;
        }
        for (name, content) in &self.files {
            entry(out, &format!("job/{name}"), 0o100_755, content)?;
        }
        entry(out, "TRAILER!!!", 0, &[])
    }

    /// Writes `base` (an initramfs) and the job behind it to the new file `to`.
    ///
    /// # Errors
    ///
    /// [`LabError::File`] if a file cannot be read or written.
    pub fn append_to(&self, base: &Path, to: &Path) -> Result<(), LabError> {
        let size = fs::copy(base, to).map_err(LabError::file("copy", base))?;
        let mut file = File::options().append(true).open(to).map_err(LabError::file("open", to))?;
        // The kernel looks for the next archive at a multiple of four.
        let mut bytes = vec![0; size.next_multiple_of(4) as usize - size as usize];
        self.write(&mut bytes)
            .and_then(|()| file.write_all(&bytes))
            .map_err(LabError::file("write", to))
    }
}

fn write_entry(
    out: &mut impl Write,
    inode: u32,
    name: &str,
    mode: u32,
    content: &[u8],
) -> io::Result<()> {
    let size = u32::try_from(content.len()).map_err(io::Error::other)?;
    let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
    // magic, ino, mode, uid, gid, nlink, mtime, filesize, major, minor, rmajor, rminor, namesize, check
    let name_size = name.len() as u32 + 1;
    let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
    let mut header = String::from("070701");
    for field in fields {
        header.push_str(&format!("{field:08x}"));
    }
    header.push_str(name);
    header.push('\0');
    out.write_all(header.as_bytes())?;
    pad(out, header.len())?;
    out.write_all(content)?;
    pad(out, content.len())
}

/// Pads to a multiple of four.
fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn cpio_reads_what_we_write() {
        let directory = tempfile::tempdir().unwrap();
        let job = Job::new("echo hello\n").with_file("data", b"12345".to_vec());
        let mut child = Command::new("cpio")
            .args(["--extract", "--quiet", "--make-directories"])
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        job.write(child.stdin.as_mut().unwrap()).unwrap();
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        let read = |name| fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(read("job.sh"), "echo hello\n");
        assert_eq!(read("job/data"), "12345");
    }

    #[test]
    fn a_job_behind_an_odd_sized_archive_starts_at_a_multiple_of_four() {
        let directory = tempfile::tempdir().unwrap();
        let (base, to) = (directory.path().join("base"), directory.path().join("to"));
        fs::write(&base, b"12345").unwrap();
        Job::new("x").append_to(&base, &to).unwrap();
        let bytes = fs::read(to).unwrap();
        assert_eq!(&bytes[..14], b"12345\x00\x00\x00070701");
    }
}
