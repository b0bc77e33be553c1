//! Format NVM (Base 5.14, NVM 4.1.4).

use std::sync::Arc;

use spindle_block::{Cx, Range};

use crate::nvme::{
    config::NAMESPACES_MAX,
    controller::Ctl,
    exclusive::Alone,
    namespace::{FORMATS, Gate, Namespace},
    spec::{NSID_ALL, Sqe},
    status::Status,
};

/// A format that makes sense.
pub struct Format {
    /// What is formatted.
    pub namespaces: Vec<Arc<Namespace>>,
    /// The new block size, as a power of two.
    shift: u8,
}

/// Secure erase settings: none, user data.
const ERASES: u32 = 2;

impl Format {
    /// What the command asks for.
    ///
    /// # Errors
    /// The status of a command that makes no sense.
    pub fn parse(ctl: &Ctl, sqe: &Sqe) -> Result<Self, Status> {
        let value = sqe.dword::<10>();
        let format = (value & 0xf | (value >> 12 & 3) << 4) as usize;
        let shift = *FORMATS.get(format).ok_or(Status::INVALID_FORMAT)?;
        // No protection information.
        if value >> 5 & 7 != 0 {
            return Err(Status::INVALID_FORMAT);
        }
        if value >> 9 & 7 >= ERASES {
            return Err(Status::INVALID_FIELD);
        }
        let namespaces = match sqe.nsid.get() {
            NSID_ALL => ctl.subsystem().namespaces(Some(ctl.cntlid())),
            nsid @ 1..=NAMESPACES_MAX => {
                let attached = ctl.subsystem().attached(nsid, ctl.cntlid());
                vec![attached.ok_or(Status::INVALID_FIELD)?]
            }
            _ => return Err(Status::INVALID_NAMESPACE),
        };
        if namespaces.iter().any(|ns| ns.is_read_only()) {
            return Err(Status::WRITE_PROTECTED);
        }
        if namespaces.iter().any(|ns| !ns.allows(|| ctl.host(), true)) {
            return Err(Status::RESERVATION_CONFLICT);
        }
        if namespaces.iter().any(|ns| ns.root().info().size < 1 << shift) {
            return Err(Status::INVALID_FORMAT);
        }
        Ok(Self { namespaces, shift })
    }

    /// Does it. Data is gone whatever the secure erase setting: a namespace reads as zeros
    /// afterwards.
    ///
    /// # Errors
    /// When a namespace could not be erased, or is being formatted already.
    pub async fn run(self, ctl: Arc<Ctl>, cx: Cx) -> Result<u32, Status> {
        for namespace in self.namespaces {
            let alone = Alone::new(ctl.subsystem(), &namespace, Gate::Format).await?;
            alone.erase(&ctl, &cx).await?;
            namespace.unmark(Range::new(0, u64::MAX)).await?;
            namespace.reformat(self.shift).await?;
            // Queue halves must know of it before the gate opens.
            ctl.subsystem().changed(namespace.nsid(), None);
            drop(alone);
        }
        Ok(0)
    }
}
