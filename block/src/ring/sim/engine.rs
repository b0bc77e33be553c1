//! The simulator as an engine of one iothread.

use std::{os::fd::RawFd, time::Instant};

use super::World;
use crate::{
    file::FileId,
    ring::{Engine, Events, Request, RingStats, doorbells::Doorbells},
};

/// A ring of a [`World`]. Several may belong to one world; all live on the world's thread.
pub struct SimEngine {
    world: World,
    index: usize,
    doorbells: Doorbells,
    stats: RingStats,
}

impl SimEngine {
    pub(super) fn new(world: World, index: usize) -> Self {
        Self { world, index, doorbells: Doorbells::default(), stats: RingStats::default() }
    }
}

impl Engine for SimEngine {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn submit(&mut self, request: Request) {
        self.stats.requests += 1;
        self.world.submit(self.index, request);
    }

    fn kick(&mut self) {}

    fn reap(&mut self, events: &mut Events) {
        self.world.take_done(self.index, &mut events.done);
        self.doorbells.take(&mut events.signalled);
    }

    /// Time passes until something happens: the next completion of the world, or `until`. Where
    /// neither can come, only a doorbell can, from another thread.
    fn wait(&mut self, until: Option<Instant>) {
        if self.world.has_done(self.index) {
            return;
        }
        if !self.world.pass_time(until) {
            self.doorbells.block(None);
        }
    }

    fn has_news(&mut self) -> bool {
        self.world.has_done(self.index)
    }

    fn watch(&mut self, fd: RawFd, key: u32) {
        self.doorbells.watch(fd, key);
    }

    fn unwatch(&mut self, key: u32) {
        self.doorbells.unwatch(key);
    }

    fn forget(&mut self, _file: FileId) {}

    fn in_flight(&self) -> usize {
        self.world.in_flight_of(self.index)
    }

    fn stats(&self) -> RingStats {
        self.stats
    }
}

impl Drop for SimEngine {
    fn drop(&mut self) {
        self.world.close_engine(self.index);
    }
}
