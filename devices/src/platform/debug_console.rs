//! The debug console: a port that firmware writes its messages to, character by character (SeaBIOS and
//! OVMF at port 402h).

use std::{
    io::Write,
    sync::{Mutex, PoisonError},
};

use crate::{Access, Registers};

/// What the port reads as: a debug console is there.
const PRESENT: u64 = 0xE9;
/// A line is written out in one piece, but no more than this much of it, in bytes.
const LINE_MAX: usize = 4096;

struct State {
    output: Box<dyn Write + Send>,
    line: Vec<u8>,
    broken: bool,
}

/// The one port.
pub struct DebugConsole {
    state: Mutex<State>,
}

impl DebugConsole {
    /// The port where firmware looks for it.
    pub const PORT: u16 = 0x402;

    /// The port; what is written there goes to `output`, a line at a time.
    #[must_use]
    pub fn new(output: Box<dyn Write + Send>) -> Self {
        Self { state: Mutex::new(State { output, line: Vec::new(), broken: false }) }
    }
}

impl State {
    fn put(&mut self, character: u8) {
        self.line.push(character);
        if character == b'\n' || self.line.len() == LINE_MAX {
            self.write_out();
        }
    }

    /// An output that failed once is not written to again; the guest must not care.
    fn write_out(&mut self) {
        if !self.broken
            && let Err(e) = self.output.write_all(&self.line).and_then(|()| self.output.flush())
        {
            log::warn!("messages of the firmware are lost from here on: {e}");
            self.broken = true;
        }
        self.line.clear();
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.write_out();
        }
    }
}

impl Registers for DebugConsole {
    fn read(&self, _access: Access) -> u64 {
        PRESENT
    }

    fn write(&self, _access: Access, value: u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).put(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::testing::{read, write};
    use std::{
        io,
        sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    };

    #[derive(Clone, Default)]
    struct Kept {
        pieces: Arc<Mutex<Vec<Vec<u8>>>>,
        refusals: Arc<AtomicUsize>,
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.refusals.load(Ordering::Relaxed) > 0 {
                self.refusals.fetch_add(1, Ordering::Relaxed);
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.pieces.lock().unwrap().push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn say(console: &DebugConsole, text: &str) {
        text.bytes().for_each(|byte| write(console, 0, 1, byte.into()));
    }

    #[test]
    fn lines_come_whole_and_a_last_one_without_an_end_comes_too() {
        let kept = Kept::default();
        let console = DebugConsole::new(Box::new(kept.clone()));
        assert_eq!(read(&console, 0, 1), 0xE9);
        say(&console, "SeaBIOS\nBooting");
        assert_eq!(*kept.pieces.lock().unwrap(), [b"SeaBIOS\n"]);
        drop(console);
        assert_eq!(kept.pieces.lock().unwrap()[1], b"Booting");
    }

    #[test]
    fn an_endless_line_is_cut_and_a_full_disk_is_left_alone() {
        let kept = Kept::default();
        let console = DebugConsole::new(Box::new(kept.clone()));
        say(&console, &"x".repeat(5000));
        assert_eq!(kept.pieces.lock().unwrap().concat().len(), 4096);
        kept.refusals.store(1, Ordering::Relaxed);
        say(&console, "\n\n\n");
        assert_eq!(kept.refusals.load(Ordering::Relaxed), 2, "one attempt");
    }
}
