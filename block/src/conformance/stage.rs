//! Where a suite runs: iothreads of one simulated world on this thread, or of the host on threads
//! of their own.

use std::{io, sync::mpsc, thread::JoinHandle, time::Duration};

use crate::{
    Cx, Iothread, LocalBoxFuture,
    iothread::{Clock, Handle},
    ring::{self, Aio, sim::World},
};

/// How long the host's iothreads may take for one step of a suite.
const HOST_WAIT: Duration = Duration::from_secs(120);

/// What one iothread is to do.
pub type Job<T> = Box<dyn FnOnce(Cx) -> LocalBoxFuture<'static, T> + Send>;

/// Makes a [`Job`] of an async function.
pub fn job<T, F>(run: impl FnOnce(Cx) -> F + Send + 'static) -> Job<T>
where
    F: Future<Output = T> + 'static,
{
    Box::new(move |cx| Box::pin(run(cx)))
}

struct Member {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

enum Kind {
    Sim { world: World, iothreads: Vec<Cx> },
    Host(Vec<Member>),
}

/// See the module.
pub struct Stage {
    name: &'static str,
    kind: Kind,
}

impl Stage {
    /// `iothreads` iothreads of `world`.
    ///
    /// # Errors
    /// As [`Iothread::new`].
    pub fn sim(world: &World, iothreads: usize) -> io::Result<Self> {
        let iothreads: io::Result<Vec<Cx>> =
            (0..iothreads).map(|n| world.iothread(&format!("sim{n}"))).collect();
        let kind = Kind::Sim { world: world.clone(), iothreads: iothreads? };
        Ok(Self { name: "sim", kind })
    }

    /// `iothreads` threads, each with a ring of the host.
    ///
    /// # Errors
    /// When a thread or its ring cannot be made, or when `aio` is not to be had here.
    pub fn host(aio: Aio, iothreads: usize) -> io::Result<Self> {
        let members: io::Result<Vec<Member>> =
            (0..iothreads).map(|n| Member::start(aio, n)).collect();
        let name = if aio == Aio::Threads { "threads" } else { "io_uring" };
        Ok(Self { name, kind: Kind::Host(members?) })
    }

    /// Its engine's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs the jobs at once, in turn on all iothreads, and waits for all of them.
    ///
    /// # Errors
    /// When they wait for something that never comes, or when an iothread died.
    pub fn run_all<T: Send + 'static>(&self, jobs: Vec<Job<T>>) -> Result<Vec<T>, String> {
        let mut results: Vec<Option<T>> = jobs.iter().map(|_| None).collect();
        let count = results.len();
        let (sender, answers) = mpsc::channel();
        for (index, job) in jobs.into_iter().enumerate() {
            let sender = sender.clone();
            self.start(index, move |cx| async move {
                // Nobody listens any more only when the suite has failed already.
                drop(sender.send((index, job(cx).await)));
            });
        }
        drop(sender);
        let mut ended = 0;
        match &self.kind {
            Kind::Sim { world, iothreads } => {
                let finished = world.run_until(iothreads, || {
                    while let Ok((index, result)) = answers.try_recv() {
                        results[index] = Some(result);
                        ended += 1;
                    }
                    ended == count
                });
                if !finished {
                    return Err(format!("{} of {count} tasks wait for ever", count - ended));
                }
            }
            Kind::Host(_) => {
                while ended < count {
                    let answer = answers.recv_timeout(HOST_WAIT);
                    let (index, result) = answer.map_err(|e| {
                        format!("{} of {count} tasks did not end: {e}", count - ended)
                    })?;
                    results[index] = Some(result);
                    ended += 1;
                }
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Interrupts the simulated iothread that has its turn: see [`World::interrupt`].
    pub fn interrupt(&self) {
        if let Kind::Sim { world, iothreads } = &self.kind {
            world.interrupt(iothreads);
        }
    }

    /// Runs one job on the first iothread.
    ///
    /// # Errors
    /// As [`Stage::run_all`].
    pub fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        run: impl FnOnce(Cx) -> F + Send + 'static,
    ) -> Result<T, String> {
        let results = self.run_all(vec![job(run)])?;
        results.into_iter().next().ok_or_else(|| "no result".to_owned())
    }

    fn start<F: Future<Output = ()> + 'static>(
        &self,
        index: usize,
        task: impl FnOnce(Cx) -> F + Send + 'static,
    ) {
        match &self.kind {
            Kind::Sim { iothreads, .. } => {
                let cx = &iothreads[index % iothreads.len()];
                cx.spawn(task(Cx::clone(cx)));
            }
            Kind::Host(members) => {
                let handle = &members[index % members.len()].handle;
                handle.post(move |cx| cx.spawn(task(Cx::clone(cx))));
            }
        }
    }
}

impl Member {
    fn start(aio: Aio, index: usize) -> io::Result<Self> {
        let (sender, answer) = mpsc::channel();
        let builder = std::thread::Builder::new().name(format!("suite{index}"));
        let thread = builder.spawn(move || {
            let made = ring::open(aio).and_then(|(ring, notice)| match notice {
                Some(notice) => Err(io::Error::other(notice)),
                None => Iothread::new("suite", ring, Clock::Real),
            });
            let cx = match made {
                Ok(cx) => cx,
                Err(e) => return drop(sender.send(Err(e))),
            };
            if sender.send(Ok(cx.handle())).is_ok() {
                cx.run();
            }
        })?;
        let handle = answer.recv().map_err(io::Error::other)??;
        Ok(Self { handle, thread: Some(thread) })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.handle.post(|cx| cx.stop());
        if let Some(thread) = self.thread.take() {
            // One that panicked has said why.
            drop(thread.join());
        }
    }
}
