//! The namespaces as one queue half sees them: handles that submitting takes no lock for.

use std::sync::Arc;

use spindle_block::RootHandle;

use crate::nvme::{cmd::Limits, controller::Ctl, namespace::Namespace};

/// A namespace in use.
pub struct Entry {
    /// The namespace.
    pub namespace: Arc<Namespace>,
    /// Its data.
    pub root: RootHandle,
    /// Its block size, looked up when the table was.
    pub shift: u8,
    /// Requests in the block layer.
    pub in_flight: u32,
    /// It is not attached any more; the entry goes with the last request.
    pub gone: bool,
}

impl Entry {
    /// What a command may do with it.
    #[inline]
    pub fn limits(&mut self, transfer_max: u64) -> Limits {
        let info = self.root.info();
        let (blocks, read_only) = (info.size >> self.shift, info.read_only);
        Limits { shift: self.shift, blocks, transfer_max, read_only }
    }
}

/// Namespaces by ID.
#[derive(Default)]
pub struct Table {
    entries: Vec<Option<Entry>>,
    generation: u64,
}

impl Table {
    /// Follows what was attached, detached or changed. One load where nothing was.
    #[inline]
    pub fn follow(&mut self, ctl: &Ctl) {
        let generation = ctl.subsystem().generation();
        if generation != self.generation {
            self.generation = generation;
            self.rebuild(ctl);
        }
    }

    #[cold]
    fn rebuild(&mut self, ctl: &Ctl) {
        let attached = ctl.subsystem().namespaces(Some(ctl.cntlid()));
        for slot in &mut self.entries {
            let Some(entry) = slot else { continue };
            entry.gone = !attached.iter().any(|ns| Arc::ptr_eq(ns, &entry.namespace));
            if entry.gone && entry.in_flight == 0 {
                *slot = None;
            }
        }
        for namespace in attached {
            let index = namespace.nsid() as usize;
            if self.entries.len() <= index {
                self.entries.resize_with(index + 1, || None);
            }
            let shift = namespace.shift();
            match &mut self.entries[index] {
                Some(entry) if Arc::ptr_eq(&entry.namespace, &namespace) => entry.shift = shift,
                slot => {
                    let root = namespace.root().handle();
                    *slot = Some(Entry { namespace, root, shift, in_flight: 0, gone: false });
                }
            }
        }
    }

    /// An attached namespace.
    #[inline]
    pub fn get(&mut self, nsid: u32) -> Option<&mut Entry> {
        self.entries.get_mut(nsid as usize)?.as_mut().filter(|entry| !entry.gone)
    }

    /// All attached namespaces.
    pub fn all(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().flatten().filter(|entry| !entry.gone)
    }

    /// A namespace that has a request in flight, attached or not.
    #[inline]
    pub fn in_use(&mut self, nsid: u32) -> Option<&mut Entry> {
        self.entries.get_mut(nsid as usize)?.as_mut()
    }

    /// A request of a namespace has ended.
    #[inline]
    pub fn ended(&mut self, nsid: u32) {
        let Some(slot) = self.entries.get_mut(nsid as usize) else { return };
        if let Some(entry) = slot {
            entry.in_flight -= 1;
            if entry.gone && entry.in_flight == 0 {
                *slot = None;
            }
        }
    }

    /// Requests of a namespace (of all: none given) in the block layer.
    #[must_use]
    pub fn in_flight(&self, nsid: Option<u32>) -> u32 {
        match nsid {
            Some(nsid) => {
                self.entries.get(nsid as usize).and_then(Option::as_ref).map_or(0, |e| e.in_flight)
            }
            None => self.entries.iter().flatten().map(|entry| entry.in_flight).sum(),
        }
    }
}
