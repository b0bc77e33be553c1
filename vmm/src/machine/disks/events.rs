//! What devices tell of their disks: failed requests become events, and pauses where the disk says
//! so.

use std::sync::Arc;

use spindle_block::BlockError;
use spindle_devices::virtio::blk::{
    BlockEvents, ErrorAction, ErrorPolicy, IoErrorEvent, IoOperation,
};

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
pub(super) struct Failures(pub(super) Arc<Mailbox>);

impl BlockEvents for Failures {
    fn io_error(&self, event: IoErrorEvent) {
        if event.action == ErrorAction::Stop {
            let (device, reason) = (event.device.clone(), event.reason.to_string());
            self.0.post(Letter::StopForError {
                device,
                reason,
                nospace: event.reason == BlockError::NoSpace,
            });
        }
        self.0.tell(Event::BlockIoError {
            device: event.device,
            node_name: event.node,
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
