//! What devices tell of their disks: failed requests become events, and pauses where the disk says
//! so.

use std::sync::Arc;

use spindle_block::{BlockError, graph::Graph};
use spindle_devices::policy::{BlockEvents, ErrorAction, ErrorPolicy, IoErrorEvent, IoOperation};

use crate::{
    machine::{Letter, Mailbox},
    monitor::{Event, IoAction, IoOperation as Operation},
    spec,
};

/// The device's word for a policy.
pub(super) fn policy(policy: spec::ErrorPolicy) -> ErrorPolicy {
    match policy {
        spec::ErrorPolicy::Report => ErrorPolicy::Report,
        spec::ErrorPolicy::Ignore => ErrorPolicy::Ignore,
        spec::ErrorPolicy::Stop => ErrorPolicy::Stop,
        spec::ErrorPolicy::Enospc => ErrorPolicy::Enospc,
    }
}

/// Where failed requests of all disks go.
pub(super) struct Failures {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) graph: Arc<Graph>,
}

impl BlockEvents for Failures {
    fn io_error(&self, event: IoErrorEvent) {
        // A disk is known by its root: several may be behind one device.
        let root = event.node;
        let device = if root.is_empty() { event.device } else { root.clone() };
        if event.action == ErrorAction::Stop {
            let reason = event.reason.to_string();
            self.mailbox.post(Letter::StopForError {
                device: device.clone(),
                reason,
                nospace: event.reason == BlockError::NoSpace,
            });
        }
        self.mailbox.tell(Event::BlockIoError {
            device,
            node_name: self.graph.node_of_root(&root).unwrap_or_default(),
            operation: match event.operation {
                IoOperation::Read => Operation::Read,
                IoOperation::Write => Operation::Write,
            },
            action: match event.action {
                ErrorAction::Report => IoAction::Report,
                ErrorAction::Ignore => IoAction::Ignore,
                ErrorAction::Stop => IoAction::Stop,
            },
            nospace: event.nospace,
            reason: event.reason.to_string(),
        });
    }
}
