//! Iothreads on threads of their own, for the tests of every controller.

use std::{
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use spindle_block::{
    Iothread,
    iothread::{Clock, Handle},
    ring::{self, Aio},
};

pub struct Thread {
    pub handle: Handle,
    join: Option<JoinHandle<()>>,
}

impl Thread {
    pub fn start() -> Self {
        let (tell, told) = mpsc::channel();
        let join = std::thread::spawn(move || {
            let (engine, _) = ring::open(Aio::IoUring).unwrap();
            let cx = Iothread::new("worker", engine, Clock::Real).unwrap();
            tell.send(cx.handle()).unwrap();
            cx.run();
        });
        Self { handle: told.recv().unwrap(), join: Some(join) }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.handle.post(|cx| cx.stop());
        let joined = self.join.take().map(JoinHandle::join);
        assert!(joined.is_none_or(|result| result.is_ok()) || std::thread::panicking());
    }
}

/// Waits for another thread to make `ready` true.
pub fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::yield_now();
    }
}
