//! Freed clusters that may not be used again yet.
//!
//! A cluster that lost its place in the tables waits for two things: that the change is durable
//! (else a crash would bring back the old entry, over somebody else's data), and that every request
//! translated before has ended (else it would read or write somebody else's cluster). Only then is
//! its refcount lowered, its space given back to the file system, and the cluster free.

use std::{collections::VecDeque, sync::Mutex};

use super::{
    mutation::{Rule, holds},
    sync::lock,
};
use crate::{PinDomain, pin::Grace};

/// First cluster and number of clusters; each lost one reference.
pub(super) type Freed = (u64, u64);

#[derive(Debug, Default)]
struct State {
    /// With the number of the change that freed them.
    waiting: Vec<(u64, Freed)>,
    parked: VecDeque<(Grace, Vec<Freed>)>,
    clusters: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Limbo {
    state: Mutex<State>,
}

impl Limbo {
    /// Change `number` took a reference from these clusters.
    pub fn push(&self, number: u64, freed: Freed) {
        let mut state = lock(&self.state);
        state.clusters += freed.1;
        let number = if holds(Rule::LimboUntilDurable) { number } else { 0 };
        state.waiting.push((number, freed));
    }

    /// Clusters that wait.
    pub fn clusters(&self) -> u64 {
        lock(&self.state).clusters
    }

    /// Changes up to `number` are durable.
    pub fn settle(&self, number: u64, pins: &PinDomain) {
        let mut state = lock(&self.state);
        let mut batch = Vec::new();
        state.waiting.retain(|&(change, freed)| {
            let durable = change <= number;
            if durable {
                batch.push(freed);
            }
            !durable
        });
        if !batch.is_empty() {
            state.parked.push_back((pins.start_grace(), batch));
        }
    }

    /// Those that wait for nothing any more.
    pub fn take_ready(&self, pins: &PinDomain) -> Vec<Freed> {
        let mut state = lock(&self.state);
        let mut ready = Vec::new();
        while let Some((grace, _)) = state.parked.front_mut() {
            if holds(Rule::LimboUntilUnpinned) && !pins.grace_over(grace) {
                break;
            }
            if let Some((_, batch)) = state.parked.pop_front() {
                ready.extend(batch);
            }
        }
        state.clusters -= ready.iter().map(|(_, n)| n).sum::<u64>();
        ready
    }
}
