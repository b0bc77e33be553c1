//! The queue half: fills buffers from the host's generator, as fast as the quota allows.

use std::{
    os::fd::RawFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use spindle_block::{
    BlockError, IoBuf,
    iothread::{Port, Progress, Queue},
};

use crate::virtio::{
    QueueEnv,
    ring::{Ring, RingError},
};

/// Bytes in each period.
#[derive(Debug)]
pub(super) struct Quota {
    max_bytes: u64,
    period: Duration,
    left: u64,
    /// When the period ends; it begins with the first byte.
    until: Option<Instant>,
}

impl Quota {
    pub fn new(max_bytes: u64, period: Duration) -> Self {
        Self { max_bytes, period, left: max_bytes, until: None }
    }

    /// How many of `wanted` bytes may be had now; else when to ask again.
    fn take(&mut self, wanted: u64, now: Instant) -> Result<u64, Instant> {
        match self.until {
            Some(until) if now < until && self.left == 0 => return Err(until),
            Some(until) if now < until => {}
            _ => {
                self.left = self.max_bytes;
                self.until = Some(now + self.period);
            }
        }
        let granted = wanted.min(self.left);
        self.left -= granted;
        Ok(granted)
    }
}

/// Most bytes one request is answered with, so that its neighbours are not kept waiting.
const ANSWER_MAX: u64 = 64 << 10;

/// See the module.
pub(super) struct RngQueue {
    env: QueueEnv,
    ring: Ring,
    quota: Arc<Mutex<Quota>>,
    buf: IoBuf,
    /// A chain that waits for the next period; its buffer is in `buf`.
    waiting: Option<u16>,
    /// Set by a timer when the next period has begun.
    refilled: Arc<AtomicBool>,
    dead: bool,
}

impl RngQueue {
    pub fn new(env: QueueEnv, quota: Arc<Mutex<Quota>>) -> Result<Self, RingError> {
        let ring = Ring::new(&env.dma, &env.setup)?;
        let mut buf = IoBuf::with_capacity(2);
        buf.set_keep(env.dma.keep());
        let refilled = Arc::default();
        Ok(Self { env, ring, quota, buf, waiting: None, refilled, dead: false })
    }

    /// Takes the next chain into `buf`.
    fn next(&mut self) -> Result<Option<u16>, RingError> {
        let Some(mut chain) = self.ring.pop()? else { return Ok(None) };
        self.buf.clear();
        while let Some(buffer) = chain.next_buffer()? {
            if buffer.writable {
                let (at, len) = (buffer.address, u64::from(buffer.len));
                self.env.dma.push(&mut self.buf, at, len).map_err(|_| RingError::Chain)?;
            }
        }
        Ok(Some(chain.head()))
    }

    /// Answers the chain in `buf`, or waits for the next period.
    fn answer(&mut self, port: &Port<'_>, head: u16) -> bool {
        let wanted = self.buf.len().min(ANSWER_MAX);
        let granted = lock(&self.quota).take(wanted, port.cx().now());
        match granted {
            Ok(n) => {
                let n = fill(&mut self.buf, n);
                self.env.dma.wrote(&self.buf);
                self.ring.push_used(head, n as u32);
                true
            }
            Err(until) => {
                self.waiting = Some(head);
                let refilled = Arc::clone(&self.refilled);
                let sleep = port.cx().sleep_until(until);
                port.cx().spawn(async move {
                    sleep.await;
                    refilled.store(true, SeqCst);
                });
                false
            }
        }
    }
}

fn lock(quota: &Mutex<Quota>) -> MutexGuard<'_, Quota> {
    quota.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts `len` random bytes at the start of `buf`; returns how many it were.
fn fill(buf: &mut IoBuf, len: u64) -> u64 {
    let mut chunk = [0; 256];
    let mut done = 0;
    while done < len {
        let n = (len - done).min(chunk.len() as u64) as usize;
        // SAFETY: `chunk` has `n` bytes; the kernel fills at most that many.
        let got = unsafe { libc::getrandom(chunk.as_mut_ptr().cast(), n, 0) };
        // Up to 256 bytes it neither fails nor is interrupted, once the host has booted.
        if usize::try_from(got) != Ok(n) {
            break;
        }
        buf.write_at(done, &chunk[..n]);
        done += n as u64;
    }
    done
}

impl Queue for RngQueue {
    fn service(&mut self, port: &mut Port<'_>, budget: u32) -> Progress {
        if self.refilled.swap(false, SeqCst)
            && let Some(head) = self.waiting.take()
            && !self.answer(port, head)
        {
            return Progress::Idle;
        }
        for _ in 0..budget {
            if self.waiting.is_some() {
                return Progress::Idle;
            }
            match self.next() {
                Ok(Some(head)) => {
                    self.answer(port, head);
                }
                Ok(None) => return Progress::Idle,
                Err(why) => {
                    self.dead = true;
                    self.env.needs_reset(why);
                    return Progress::Dead;
                }
            }
        }
        Progress::More
    }

    fn complete(
        &mut self,
        _port: &mut Port<'_>,
        token: u32,
        _buf: IoBuf,
        _result: Result<(), BlockError>,
    ) {
        debug_assert!(false, "request {token} was never submitted");
    }

    fn flush_irq(&mut self) {
        if self.ring.publish() {
            self.env.interrupt();
        }
    }

    fn pending(&mut self) -> bool {
        if self.dead || !self.env.is_bus_master() {
            return false;
        }
        match self.waiting {
            Some(_) => self.refilled.load(SeqCst),
            None => self.ring.pending(),
        }
    }

    fn notify(&mut self, on: bool) {
        self.ring.notify(on);
    }

    fn doorbell(&self) -> Option<RawFd> {
        Some(self.env.bell().fd())
    }

    fn drained(&mut self) {}
}
