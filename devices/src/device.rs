//! What every device offers to the machine that holds it.

use std::sync::{Arc, Mutex, PoisonError};

/// Called once, from any thread, when something asynchronous is over.
pub type Done = Box<dyn FnOnce() + Send>;

/// A device as a whole. Nothing here waits: what takes time says so through [`Done`].
pub trait Device: Send + Sync {
    /// The device's id, unique on its machine: for messages and events.
    fn id(&self) -> &str;

    /// Stops taking requests. `done` is called once nothing is in flight: from then on the device
    /// touches neither guest memory nor its disks. Requests parked by an error policy stay parked.
    /// Pauses nest.
    fn pause(&self, done: Done);

    /// Undoes one [`Device::pause`]; with the last one, parked requests are tried again, in order.
    fn resume(&self);

    /// Returns to the state after power-on. `done` is called once nothing of the time before can
    /// touch guest memory any more.
    fn reset(&self, done: Done);
}

/// Calls `done` when the last clone is dropped: for those who wait for several things.
#[derive(Clone)]
pub struct Countdown {
    _last: Arc<OnDrop>,
}

struct OnDrop(Mutex<Option<Done>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let done = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(done) = done {
            done();
        }
    }
}

impl Countdown {
    /// `done` is called when this and all its clones are gone.
    #[must_use]
    pub fn new(done: Done) -> Self {
        Self { _last: Arc::new(OnDrop(Mutex::new(Some(done)))) }
    }
}
