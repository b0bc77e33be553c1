//! An iothread on a thread of its own.

use std::{
    io,
    sync::mpsc,
    thread::{Builder, JoinHandle},
    time::Duration,
};

use super::{Clock, Cx, Handle, Iothread};
use crate::ring::{self, Aio};

/// Bytes of stack for threads that live long: not enough for a huge page, which the kernel would give to
/// a stack of the usual 2 MiB at its first touch.
pub const STACK: usize = 1536 << 10;

/// What an iothread is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its name, in messages and as the thread's.
    pub name: String,
    /// The engine of its ring.
    pub aio: Aio,
    /// How long it polls before it sleeps, at most; zero: never.
    pub poll_max: Duration,
}

/// A running iothread. It ends by [`Iothread::stop`] in a message.
pub struct Spawned {
    /// To talk to it.
    pub handle: Handle,
    /// To wait for its end.
    pub thread: JoinHandle<()>,
    /// The engine it got: `io_uring` or `threads`.
    pub engine: &'static str,
    /// A sentence for the user, where it did not get the engine that was asked for.
    pub notice: Option<String>,
}

/// Calls `ended` however the thread ends, after the inbox is closed: from then on messages to it are
/// dropped, and whoever waits for an answer hears that there is none.
struct OnEnd<F: FnOnce(bool)> {
    cx: Cx,
    ended: Option<F>,
}

impl<F: FnOnce(bool)> Drop for OnEnd<F> {
    fn drop(&mut self) {
        self.cx.shut();
        if let Some(ended) = self.ended.take() {
            ended(std::thread::panicking());
        }
    }
}

/// Starts an iothread. `setup` runs on it before it serves anything (a seccomp filter, its
/// affinity); `ended` when it is over, with `true` if it panicked.
///
/// # Errors
/// When there is no thread, ring or lane to be had, or `setup` fails.
pub fn spawn(
    config: &Config,
    setup: impl FnOnce(&Cx) -> io::Result<()> + Send + 'static,
    ended: impl FnOnce(bool) + Send + 'static,
) -> io::Result<Spawned> {
    let (tx, rx) = mpsc::sync_channel(1);
    let Config { name, aio, poll_max } = config.clone();
    let thread = Builder::new().name(name.clone()).stack_size(STACK).spawn(move || {
        let started = start(&name, aio, poll_max).and_then(|(cx, notice)| {
            setup(&cx)?;
            Ok((cx, notice))
        });
        let (cx, notice) = match started {
            Ok(started) => started,
            Err(error) => return drop(tx.send(Err(error))),
        };
        let guard = OnEnd { cx, ended: Some(ended) };
        // The receiver waits below for as long as this thread lives.
        drop(tx.send(Ok((guard.cx.handle(), guard.cx.engine(), notice))));
        guard.cx.run();
    })?;
    let lost = || io::Error::other("the iothread ended before it had started");
    let (handle, engine, notice) = rx.recv().map_err(|_| lost())??;
    Ok(Spawned { handle, thread, engine, notice })
}

fn start(name: &str, aio: Aio, poll_max: Duration) -> io::Result<(Cx, Option<String>)> {
    let (ring, notice) = ring::open(aio)?;
    let cx = Iothread::new(name, ring, Clock::Real)?;
    cx.set_poll_max(poll_max);
    Ok((cx, notice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lane;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    fn config(name: &str) -> Config {
        Config { name: name.to_owned(), aio: Aio::IoUring, poll_max: Duration::ZERO }
    }

    #[test]
    fn it_serves_until_it_is_stopped_and_gives_its_lane_back() {
        for n in 0..3 * Lane::MAX {
            let (tx, rx) = mpsc::channel();
            let spawned =
                spawn(&config("io"), |_| Ok(()), move |panicked| tx.send(panicked).expect("open"));
            let spawned = spawned.unwrap_or_else(|e| panic!("iothread {n}: {e}"));
            let name = spawned.handle.call(|_| std::thread::current().name().map(str::to_owned));
            assert_eq!(name.flatten().as_deref(), Some("io"));
            spawned.handle.post(|cx| cx.stop());
            spawned.thread.join().expect("no panic");
            assert_eq!(rx.recv(), Ok(false));
            assert_eq!(spawned.handle.call(|_| ()), None);
        }
    }

    #[test]
    fn a_panic_is_told_and_nobody_waits_for_the_dead() {
        let (tx, rx) = mpsc::channel();
        let spawned =
            spawn(&config("io"), |_| Ok(()), move |panicked| tx.send(panicked).expect("open"))
                .expect("an iothread");
        // A task that never ends would keep the iothread's memory; the inbox closes all the same.
        spawned.handle.post(|cx| {
            let task_cx = Cx::clone(cx);
            cx.spawn(async move { task_cx.sleep(Duration::from_secs(3600)).await });
        });
        let answer = spawned.handle.call(|_| panic!("on purpose"));
        assert_eq!(answer, None::<()>);
        assert_eq!(rx.recv(), Ok(true));
        assert!(spawned.thread.join().is_err());
        assert_eq!(spawned.handle.call(|_| ()), None);
    }

    #[test]
    fn a_failed_setup_is_the_callers_error() {
        static ENDED: AtomicBool = AtomicBool::new(false);
        let refused = |_: &Cx| Err(io::Error::other("no filter"));
        let error = spawn(&config("io"), refused, |_| ENDED.store(true, SeqCst)).map(|_| ());
        assert_eq!(error.expect_err("refused").to_string(), "no filter");
        assert!(!ENDED.load(SeqCst));
    }
}
