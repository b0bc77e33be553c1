//! A 16550 serial port, on vm-superio's model of one.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use vm_superio::{Serial, Trigger, serial::SerialEvents};
use vmm_sys_util::eventfd::EventFd;

use crate::{Access, LineIrq, Registers};

/// Where characters go that the guest sends. Called on vCPU threads.
pub trait Output: Send {
    /// Takes a character. It must not wait.
    fn put(&mut self, byte: u8);
}

/// Input that waits for room in the port's FIFO, at most; beyond it whoever feeds the port waits.
const WAITING_MAX: usize = 4096;

/// Bit 0 of the interrupt identification register: nothing is pending.
const NOTHING_PENDING: u8 = 1 << 0;

/// A new reason for an interrupt is an edge of the line, even while it is up.
struct Edge(Arc<dyn LineIrq>);

impl Trigger for Edge {
    type E = io::Error;
    fn trigger(&self) -> io::Result<()> {
        self.0.set(false);
        self.0.set(true);
        Ok(())
    }
}

struct Writer(Box<dyn Output>);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.0.put(*byte);
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Notes that the guest has emptied the FIFO.
#[derive(Clone, Default)]
struct Emptied(Arc<AtomicBool>);

impl SerialEvents for Emptied {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct State {
    port: Serial<Edge, Emptied, Writer>,
    waiting: VecDeque<u8>,
}

/// The port: eight registers.
pub struct SerialPort {
    state: Mutex<Option<State>>,
    emptied: Emptied,
    irq: Arc<dyn LineIrq>,
    /// Signalled when there is room for input again, if somebody was refused.
    room: Arc<EventFd>,
    refused: AtomicBool,
}

impl SerialPort {
    /// Number of registers.
    pub const PORTS: u64 = 8;

    /// A port that drives `irq` (whose edges count), and signals `room` when input that it refused can be
    /// offered again.
    #[must_use]
    pub fn new(irq: Box<dyn LineIrq>, output: Box<dyn Output>, room: Arc<EventFd>) -> Self {
        let irq: Arc<dyn LineIrq> = irq.into();
        let emptied = Emptied::default();
        let port = Serial::with_events(Edge(Arc::clone(&irq)), emptied.clone(), Writer(output));
        let state = Mutex::new(Some(State { port, waiting: VecDeque::new() }));
        Self { state, emptied, irq, room, refused: AtomicBool::new(false) }
    }

    /// Offers input; returns how much of it was taken.
    pub fn input(&self, bytes: &[u8]) -> usize {
        self.with(|state| {
            let taken = bytes.len().min(WAITING_MAX - state.waiting.len());
            state.waiting.extend(&bytes[..taken]);
            if taken < bytes.len() {
                self.refused.store(true, Ordering::Relaxed);
            }
            state.fill();
            taken
        })
        .unwrap_or(0)
    }

    /// A reset of the machine: registers as at the start, input forgotten.
    pub fn reset(&self) {
        let mut slot = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = slot.take() {
            let writer = state.port.into_writer();
            let port =
                Serial::with_events(Edge(Arc::clone(&self.irq)), self.emptied.clone(), writer);
            *slot = Some(State { port, waiting: VecDeque::new() });
        }
        self.irq.set(false);
        if self.refused.swap(false, Ordering::Relaxed) {
            let _ = self.room.write(1);
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut slot = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = slot.as_mut()?;
        let value = f(state);
        if state.port.state().interrupt_identification & NOTHING_PENDING != 0 {
            self.irq.set(false);
        }
        Some(value)
    }
}

impl State {
    /// Moves waiting input into the FIFO.
    fn fill(&mut self) {
        let count = self.port.fifo_capacity().min(self.waiting.len());
        if count == 0 {
            return;
        }
        let (head, _) = self.waiting.make_contiguous().split_at(count);
        // In loopback mode the port takes nothing; the input waits.
        match self.port.enqueue_raw_bytes(head) {
            Ok(taken) => drop(self.waiting.drain(..taken)),
            Err(e) => log::debug!("serial port: {e}"),
        }
    }
}

impl Registers for SerialPort {
    fn read(&self, access: Access) -> u64 {
        let offset = access.offset as u8 & 7;
        let value = self.with(|state| {
            let value = state.port.read(offset);
            if self.emptied.0.swap(false, Ordering::Relaxed) && !state.waiting.is_empty() {
                state.fill();
                if self.refused.swap(false, Ordering::Relaxed) {
                    let _ = self.room.write(1);
                }
            }
            value
        });
        u64::from(value.unwrap_or(u8::MAX))
    }

    fn write(&self, access: Access, value: u64) {
        let offset = access.offset as u8 & 7;
        if let Some(Err(e)) = self.with(|state| state.port.write(offset, value as u8)) {
            log::debug!("serial port: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::testing::{Wire, read, write};
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    struct Sent(Arc<Mutex<Vec<u8>>>);
    impl Output for Sent {
        fn put(&mut self, byte: u8) {
            self.0.lock().unwrap().push(byte);
        }
    }

    fn event() -> Arc<EventFd> {
        Arc::new(EventFd::new(EFD_NONBLOCK).unwrap())
    }

    type Bytes = Arc<Mutex<Vec<u8>>>;

    fn port() -> (SerialPort, Bytes, Wire, Arc<EventFd>) {
        let (sent, irq, room) = (Arc::new(Mutex::default()), Wire::default(), event());
        let port = SerialPort::new(
            Box::new(irq.clone()),
            Box::new(Sent(Arc::clone(&sent))),
            Arc::clone(&room),
        );
        (port, sent, irq, room)
    }

    #[test]
    fn what_the_guest_sends_goes_out_in_order() {
        let (port, sent, _, _) = port();
        for byte in b"hello\n" {
            assert_eq!(read(&port, 5, 1) & 0x60, 0x60, "ready to send");
            write(&port, 0, 1, u64::from(*byte));
        }
        assert_eq!(*sent.lock().unwrap(), b"hello\n");
    }

    #[test]
    fn input_arrives_whole_and_in_order_however_small_the_fifo() {
        let (port, _, irq, room) = port();
        let input: Vec<u8> = (0..WAITING_MAX + 100).map(|i| (i % 251) as u8).collect();
        write(&port, 1, 1, 1);
        let taken = port.input(&input);
        assert!((WAITING_MAX..input.len()).contains(&taken), "{taken}");
        assert!(irq.is_up());
        assert!(room.read().is_err());
        let mut got = Vec::new();
        while read(&port, 5, 1) & 1 == 1 {
            got.push(read(&port, 0, 1) as u8);
        }
        assert_eq!(got, input[..taken]);
        assert!(room.read().is_ok(), "the rest can be offered again");
        assert!(!irq.is_up(), "all of it was read");
        assert_eq!(port.input(&input[taken..]), input.len() - taken);
        assert!(irq.is_up());
    }

    #[test]
    fn a_reset_forgets_input_and_registers() {
        let (port, sent, _, _) = port();
        write(&port, 7, 1, 0x5A);
        port.input(b"abc");
        port.reset();
        assert_eq!((read(&port, 5, 1) & 1, read(&port, 7, 1)), (0, 0));
        write(&port, 0, 1, b'x'.into());
        assert_eq!(*sent.lock().unwrap(), b"x");
    }
}
