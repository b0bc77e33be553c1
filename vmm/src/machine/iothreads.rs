//! The iothreads of a machine.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use spindle_block::{
    Cx,
    iothread::{Handle, thread},
    ring::Aio,
};

use super::{BuildError, Letter, Mailbox};
use crate::{
    sandbox::{self, Sandbox},
    spec::{
        DriverSpec, MachineSpec, ObjectSpec,
        block::AioMode,
        device::{DeviceSpec, Kindred, Place, Queues},
    },
};

/// The iothread for what has none of its own, where there is no other.
const SPARE: &str = "io";

/// All iothreads, by id.
pub(super) struct Iothreads {
    threads: BTreeMap<String, (Handle, JoinHandle<()>)>,
    /// Whoever does the graph's business: the first one that was described.
    control: String,
    /// They are meant to end.
    ending: Arc<AtomicBool>,
}

impl Iothreads {
    /// Starts those that `spec` describes, and a spare one if it describes none.
    pub(super) fn start(
        spec: &MachineSpec,
        mailbox: &Arc<Mailbox>,
        sandbox: &Sandbox,
    ) -> Result<Self, BuildError> {
        let mut all =
            Self { threads: BTreeMap::new(), control: SPARE.to_owned(), ending: Arc::default() };
        let described = spec.objects.iter().filter_map(|object| match object {
            ObjectSpec::Iothread(iothread) => Some(iothread),
            _ => None,
        });
        let mut notices = Vec::new();
        for iothread in described {
            if all.threads.is_empty() {
                all.control.clone_from(&iothread.id);
            }
            let poll_max = Duration::from_nanos(iothread.poll_max_ns);
            let config = thread::Config {
                name: iothread.id.clone(),
                aio: engine_of(spec, &iothread.id),
                poll_max,
            };
            notices.extend(all.spawn(&config, mailbox, sandbox)?);
        }
        if all.threads.is_empty() {
            let config = thread::Config {
                name: SPARE.to_owned(),
                aio: Aio::default(),
                poll_max: Duration::ZERO,
            };
            notices.extend(all.spawn(&config, mailbox, sandbox)?);
        }
        notices.dedup();
        for notice in notices {
            log::warn!("{notice}");
        }
        Ok(all)
    }

    fn spawn(
        &mut self,
        config: &thread::Config,
        mailbox: &Arc<Mailbox>,
        sandbox: &Sandbox,
    ) -> Result<Option<String>, BuildError> {
        let (name, mailbox) = (config.name.clone(), Arc::clone(mailbox));
        let ending = Arc::clone(&self.ending);
        let sandbox = sandbox.clone();
        let spawned = thread::spawn(
            config,
            move |_| sandbox.enter(sandbox::Kind::Iothread),
            move |_panicked| {
                if !ending.load(Ordering::SeqCst) {
                    mailbox.post(Letter::IothreadDied(name));
                }
            },
        )
        .map_err(|source| BuildError::Iothread { name: config.name.clone(), source })?;
        log::debug!("iothread '{}' uses {}", config.name, spawned.engine);
        self.threads.insert(config.name.clone(), (spawned.handle, spawned.thread));
        Ok(spawned.notice)
    }

    /// The iothread called `id`.
    pub(super) fn get(&self, id: &str) -> Result<Handle, BuildError> {
        self.threads.get(id).map(|(handle, _)| handle.clone()).ok_or_else(|| {
            let source = io::Error::other("there is no such object");
            BuildError::Iothread { name: id.to_owned(), source }
        })
    }

    /// The one that opens, resizes and closes nodes.
    pub(super) fn control(&self) -> Result<Handle, BuildError> {
        self.get(&self.control)
    }

    /// The iothread of each queue of a device.
    pub(super) fn of_queues(&self, device: &dyn Kindred) -> Result<Vec<Handle>, BuildError> {
        let Some(queues) = device.queues() else { return Ok(Vec::new()) };
        queue_map(&queues, &self.control).into_iter().map(|id| self.get(id)).collect()
    }

    /// Ends them all; nothing is attached to them any more.
    pub(super) fn stop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        for (handle, _) in self.threads.values() {
            handle.post(|cx| cx.stop());
        }
        for (name, (_, thread)) in std::mem::take(&mut self.threads) {
            if thread.join().is_err() {
                log::error!("iothread '{name}' panicked");
            }
        }
    }
}

impl Drop for Iothreads {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs `task` on an iothread and waits for it; for the time before the main loop runs. `None`: the
/// iothread is gone.
pub(super) fn wait_for<T, F>(on: &Handle, task: impl FnOnce(Cx) -> F + Send + 'static) -> Option<T>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let (tx, rx) = mpsc::sync_channel(1);
    on.post(move |cx| {
        let task = task(Cx::clone(cx));
        cx.spawn(async move {
            // The receiver waits for as long as the iothread lives.
            drop(tx.send(task.await));
        });
    });
    rx.recv().ok()
}

/// The id of each queue's iothread.
fn queue_map<'a>(queues: &Queues<'a>, fallback: &'a str) -> Vec<&'a str> {
    let count = usize::from(queues.count.max(1));
    let mapping = queues.mapping;
    if mapping.is_empty() {
        return vec![queues.iothread.unwrap_or(fallback); count];
    }
    (0..count)
        .map(|queue| {
            let named = mapping.iter().find(|m| {
                m.vqs.as_ref().is_some_and(|vqs| vqs.iter().any(|vq| usize::from(*vq) == queue))
            });
            named.unwrap_or(&mapping[queue % mapping.len()]).iothread.as_str()
        })
        .collect()
}

/// The engine of an iothread: threads if a file of a disk that it serves asks for them.
fn engine_of(spec: &MachineSpec, iothread: &str) -> Aio {
    let served = |device: &&DeviceSpec| {
        let queues = server_of(spec, device).and_then(|server| server.queues());
        queues.is_some_and(|queues| queue_map(&queues, SPARE).contains(&iothread))
    };
    let mut nodes: Vec<&str> =
        spec.devices.iter().filter(served).filter_map(DeviceSpec::drive).collect();
    // Children come before their parents in the description, so that this ends.
    while let Some(node) = nodes.pop().and_then(|name| spec.node(name)) {
        if let DriverSpec::File(file) | DriverSpec::HostDevice(file) = &node.driver
            && file.aio == AioMode::Threads
        {
            return Aio::Threads;
        }
        nodes.extend(node.children());
    }
    Aio::IoUring
}

/// The device whose queues a disk's requests come through: itself, or the controller it is on.
fn server_of<'a>(spec: &'a MachineSpec, device: &'a DeviceSpec) -> Option<&'a dyn Kindred> {
    match device.kind().place() {
        Place::Pci(_) | Place::Nowhere => Some(device.kind()),
        Place::Bus(controller) => spec.device(controller).map(DeviceSpec::kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::device::VqMapping;

    #[test]
    fn queues_go_to_the_iothreads_that_are_named() {
        let map = |iothread: &str, vqs: Option<&[u16]>| VqMapping {
            iothread: iothread.to_owned(),
            vqs: vqs.map(<[u16]>::to_vec),
        };
        let four = |iothread, mapping: &[VqMapping]| {
            let queues = Queues { count: 4, iothread, mapping };
            queue_map(&queues, "x").join(" ")
        };
        assert_eq!(four(None, &[]), "x x x x");
        assert_eq!(four(Some("a"), &[]), "a a a a");
        assert_eq!(four(None, &[map("a", None), map("b", None)]), "a b a b");
        let listed = [map("a", Some(&[0, 3])), map("b", Some(&[1, 2]))];
        assert_eq!(four(None, &listed), "a b b a");
    }
}
