//! Reservation commands, from their bytes to what they change.

use crate::{
    nvme::{
        cmd::Reserve,
        reservation::{Acquire, Host, Kind, Notice, Notices, Reservations},
        status::Status,
    },
    state_file::Fields,
};

/// The action of a Reservation Acquire that ends commands, too.
const PREEMPT_AND_ABORT: u32 = 2;
/// Ignore Existing Key.
const IGNORE_KEY: u32 = 1 << 3;

/// The hosts whose commands are to end before a command is answered: those that a Preempt and Abort
/// has unregistered.
#[must_use]
pub fn aborted(reserve: Reserve, notices: &Notices) -> Vec<Host> {
    match reserve {
        Reserve::Acquire(dword) if dword & 7 == PREEMPT_AND_ABORT => {
            let gone = notices.iter().filter(|(_, notice)| *notice != Notice::ReservationReleased);
            gone.map(|(host, _)| *host).collect()
        }
        _ => Vec::new(),
    }
}

/// Does what a command asks for; `bytes` is what it transfers.
///
/// # Errors
/// The status of a command that fails; nothing is to be changed then.
pub fn change(
    all: &mut Reservations,
    reserve: Reserve,
    bytes: &[u8],
    host: Host,
    cntlid: u16,
) -> Result<Notices, Status> {
    let mut fields = Fields::new(bytes);
    let mut key = || fields.u64().map_err(|_| Status::INTERNAL);
    match reserve {
        Reserve::Register(dword) => {
            let (current, new) = (key()?, key()?);
            let current = (dword & IGNORE_KEY == 0).then_some(current);
            match dword >> 30 {
                0 => {}
                2 => all.persist = false,
                3 => all.persist = true,
                _ => return Err(Status::INVALID_FIELD),
            }
            match dword & 7 {
                0 => all.register(host, cntlid, new).map(|()| Notices::new()),
                1 => all.unregister(host, current),
                2 => all.replace(host, cntlid, current, new).map(|()| Notices::new()),
                _ => Err(Status::INVALID_FIELD),
            }
        }
        Reserve::Acquire(dword) => {
            let (current, preempted) = (key()?, key()?);
            let kind = Kind::from_number(dword >> 8 & 0xff)?;
            if dword & IGNORE_KEY != 0 {
                return Err(Status::INVALID_FIELD);
            }
            let action = match dword & 7 {
                0 => Acquire::Acquire,
                // What the preempted hosts have in the storage is seen to once they are preempted.
                1 | PREEMPT_AND_ABORT => Acquire::Preempt(preempted),
                _ => return Err(Status::INVALID_FIELD),
            };
            all.acquire(host, current, kind, action)
        }
        Reserve::Release(dword) => {
            let current = key()?;
            if dword & IGNORE_KEY != 0 {
                return Err(Status::INVALID_FIELD);
            }
            match dword & 7 {
                0 => all.release(host, current, Kind::from_number(dword >> 8 & 0xff)?),
                1 => all.clear(host, current),
                _ => Err(Status::INVALID_FIELD),
            }
        }
        Reserve::Report(..) => Ok(Notices::new()),
    }
}
