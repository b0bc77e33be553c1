//! What devices declare, and what becomes of it where they collide: the earlier claim wins.

use std::{collections::BTreeMap, sync::Arc};

use spindle_devices::{Doorbell, Space, Window, Windows};

use super::map::{Entry, Map};

struct Claim {
    device: u32,
    /// When this window was first declared.
    since: u64,
    window: Window,
}

/// All declarations.
#[derive(Default)]
pub(super) struct Claims {
    windows: Vec<Claim>,
    bells: BTreeMap<u32, Vec<Doorbell>>,
    clock: u64,
}

/// What they come to.
pub(super) struct Resolved {
    pub(super) map: Map,
    pub(super) bells: Vec<Doorbell>,
    pub(super) zones: Vec<(Space, u64, u32)>,
}

/// An entry with its owner.
struct Placed {
    device: u32,
    space: Space,
    coalesce: bool,
    entry: Entry,
}

impl Claims {
    /// Replaces what `device` declares. A window that it had before keeps its age.
    pub(super) fn set(&mut self, device: u32, windows: Windows) {
        let old: Vec<(Space, u64, u64, u64)> = self
            .windows
            .iter()
            .filter(|c| c.device == device)
            .map(|c| (c.window.space, c.window.base, c.window.len, c.since))
            .collect();
        self.windows.retain(|c| c.device != device);
        self.clock += 1;
        for window in windows.ranges.into_iter().filter(|w| w.len > 0) {
            let since = old
                .iter()
                .find(|o| (o.0, o.1, o.2) == (window.space, window.base, window.len))
                .map_or(self.clock, |o| o.3);
            self.windows.push(Claim { device, since, window });
        }
        self.windows.sort_by_key(|c| c.since);
        if windows.doorbells.is_empty() {
            self.bells.remove(&device);
        } else {
            self.bells.insert(device, windows.doorbells);
        }
    }

    /// The map, the doorbells that are reachable in it, and its coalesced ranges.
    pub(super) fn resolve(&self) -> Resolved {
        let mut placed: Vec<Placed> = Vec::with_capacity(self.windows.len());
        for claim in &self.windows {
            place(claim, &mut placed);
        }
        placed.sort_by_key(|p| (p.space, p.entry.base));
        let bells = self
            .bells
            .iter()
            .flat_map(|(device, bells)| bells.iter().map(move |bell| (*device, bell)))
            .filter(|(device, bell)| is_reachable(&placed, *device, bell))
            .map(|(_, bell)| bell.clone())
            .collect();
        let zones = placed.iter().filter(|p| p.coalesce).filter_map(zone).collect();
        let entries = |space| join(placed.iter().filter(|p| p.space == space).map(|p| &p.entry));
        Resolved { map: Map::new(entries(Space::Memory), entries(Space::Port)), bells, zones }
    }
}

/// Makes one entry of those that continue each other: an access that spans two windows of one device
/// (a word at a data port, beside a window that is coalesced) reaches the device as it was made.
fn join<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<Entry> {
    let mut joined: Vec<Entry> = Vec::new();
    for entry in entries {
        match joined.last_mut() {
            Some(last)
                if last.last.checked_add(1) == Some(entry.base)
                    && Arc::as_ptr(&last.target).addr() == Arc::as_ptr(&entry.target).addr()
                    && last.offset.wrapping_add(entry.base - last.base) == entry.offset =>
            {
                last.last = entry.last;
            }
            _ => joined.push(entry.clone()),
        }
    }
    joined
}

fn zone(placed: &Placed) -> Option<(Space, u64, u32)> {
    let len = u32::try_from(placed.entry.last - placed.entry.base).ok()?.checked_add(1)?;
    Some((placed.space, placed.entry.base, len))
}

fn is_reachable(placed: &[Placed], device: u32, bell: &Doorbell) -> bool {
    let last = bell.address.saturating_add(u64::from(bell.width.max(1)) - 1);
    placed.iter().any(|p| {
        p.device == device
            && p.space == bell.space
            && p.entry.base <= bell.address
            && last <= p.entry.last
    })
}

/// Adds the parts of a window that nobody has yet.
fn place(claim: &Claim, placed: &mut Vec<Placed>) {
    let window = &claim.window;
    let end = window.base.saturating_add(window.len - 1);
    let mut taken: Vec<(u64, u64)> = placed
        .iter()
        .filter(|p| p.space == window.space && p.entry.base <= end && window.base <= p.entry.last)
        .map(|p| (p.entry.base, p.entry.last))
        .collect();
    taken.sort_unstable();
    if let Some((base, last)) = taken.first() {
        log::debug!(
            "device {}: window {:#x}..={end:#x} collides with {base:#x}..={last:#x}",
            claim.device,
            window.base
        );
    }
    let mut next = Some(window.base);
    let mut add = |base: u64, last: u64| {
        placed.push(Placed {
            device: claim.device,
            space: window.space,
            coalesce: window.coalesce,
            entry: Entry {
                base,
                last,
                target: Arc::clone(&window.target),
                offset: window.target_offset.wrapping_add(base - window.base),
            },
        });
    };
    for (base, last) in taken {
        match next {
            Some(from) if from < base => add(from, base - 1),
            _ => {}
        }
        next = next.and_then(|from| last.checked_add(1).map(|after| after.max(from)));
    }
    if let Some(from) = next.filter(|from| *from <= end) {
        add(from, end);
    }
}
