//! The windows of a channel: command block, control port, bus master.

use std::sync::Arc;

use super::{
    channel::{Channel, State, Wanted},
    spec::{bm_status, port},
};
use crate::{
    Access, Registers,
    register::{Register, parts},
};

/// Command block and control port, offsets as in [`port`].
pub(super) struct Ports(pub Arc<Channel>);

impl Ports {
    fn each(&self, access: Access, mut f: impl FnMut(&mut State, u64, u8) -> Wanted) {
        let wanted = self.0.change(|state| {
            if access.offset == port::DATA && access.width > 1 {
                return f(state, port::DATA, access.width);
            }
            let mut queue = false;
            for at in (access.offset..).take(access.width.into()) {
                queue |= f(state, at, 1).queue;
            }
            Wanted { queue }
        });
        if wanted.queue {
            self.0.ring();
        }
    }
}

impl Registers for Ports {
    fn read(&self, access: Access) -> u64 {
        let mut value = 0;
        self.each(access, |state, at, width| {
            let (part, wanted) = state.read(at, width);
            let shift = (at - access.offset) * 8;
            value |= if width == 1 { (part & 0xff) << shift } else { part };
            wanted
        });
        value
    }

    fn write(&self, access: Access, value: u64) {
        self.each(access, |state, at, width| {
            let shift = (at - access.offset) * 8;
            state.write(at, width, value >> shift)
        });
    }
}

/// Bus master registers of one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Command,
    Status,
    Table,
}

const DRIVES: u64 = (bm_status::DRIVE_0 | bm_status::DRIVE_1) as u64;
const CLEAR: u64 = (bm_status::ERROR | bm_status::INTERRUPT) as u64;

/// BMIDE, 2; the table lies on a doubleword.
pub(super) const BUS_MASTER: &[Register<Name>] = &[
    Register::read_write(Name::Command, 0, 1, 0, 0x09),
    Register {
        name: Name::Status,
        offset: 2,
        width: 1,
        reset: 0,
        writable: DRIVES,
        write_one_clear: CLEAR,
    },
    Register::read_write(Name::Table, 4, 4, 0, 0xffff_fffc),
];

/// See [`BUS_MASTER`].
pub(super) struct BmPorts(pub Arc<Channel>);

fn get(state: &State, name: Name) -> u64 {
    match name {
        Name::Command => state.bm.command.into(),
        Name::Status => state.bm.status.into(),
        Name::Table => state.bm.table.into(),
    }
}

impl Registers for BmPorts {
    fn read(&self, access: Access) -> u64 {
        let state = self.0.lock();
        parts(BUS_MASTER, access)
            .fold(0, |value, part| value | part.extract(get(&state, part.register.name)))
    }

    fn write(&self, access: Access, value: u64) {
        let wanted = self.0.change(|state| {
            let mut queue = false;
            for part in parts(BUS_MASTER, access) {
                let old = get(state, part.register.name);
                let new = part.register.merge(old, part.insert(value), part.mask);
                match part.register.name {
                    Name::Command => queue |= state.bm_command(new as u8).queue,
                    Name::Status => state.bm.status = new as u8,
                    Name::Table => state.bm.table = new as u32,
                }
            }
            Wanted { queue }
        });
        if wanted.queue {
            self.0.ring();
        }
    }
}
