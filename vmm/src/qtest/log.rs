//! What is said over the socket, for a person: `--qtest-log`, in QEMU's form.

use std::{fs::File, io::Write, path::Path, time::Instant};

use crate::machine::BuildError;

/// The log's file. What cannot be written is not there.
pub(super) struct Log {
    file: File,
    start: Instant,
}

impl Log {
    /// Makes the file anew; `none` is no log.
    pub(super) fn create(path: &Path) -> Result<Option<Self>, BuildError> {
        if path.as_os_str() == "none" {
            return Ok(None);
        }
        let file = File::create(path)
            .map_err(|source| BuildError::Log { path: path.to_owned(), source })?;
        Ok(Some(Self { file, start: Instant::now() }))
    }

    fn line(&mut self, kind: char, plus: &str, text: &str) {
        let elapsed = self.start.elapsed().as_secs_f64();
        let _ = writeln!(self.file, "[{kind} {plus}{elapsed:.6}] {}", text.trim_end_matches('\n'));
    }

    /// Something about the connection.
    pub(super) fn note(&mut self, text: &str) {
        self.line('I', "", text);
    }

    /// A line that came.
    pub(super) fn received(&mut self, text: &str) {
        self.line('R', "+", text);
    }

    /// A line that goes out.
    pub(super) fn sent(&mut self, text: &str) {
        self.line('S', "+", text);
    }
}
