//! Command queuing (eMMC 6.6.39): transfers that are named first, and executed later by number.

use super::{
    Card, Reply, Response, Then,
    card::Own,
    spec::{QUEUE_DEPTH, status},
    table::Name,
};

/// The fields of CMD44 (eMMC 6.10.4, table 56).
mod params {
    pub const BLOCKS: u32 = 0xffff;
    /// Forced programming, and reliable write.
    pub const DURABLE: u32 = 1 << 24 | 1 << 31;
    pub const READ: u32 = 1 << 30;
}

/// Operations of CMD48 (eMMC 6.6.39.6).
mod operation {
    pub const DISCARD_ALL: u32 = 1;
    pub const DISCARD_ONE: u32 = 2;
}

/// A transfer that was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Task {
    read: bool,
    blocks: u32,
    durable: bool,
    /// The block address; `None`: CMD45 has not come.
    address: Option<u32>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct TaskQueue {
    tasks: [Option<Task>; QUEUE_DEPTH],
    /// The task whose CMD45 is to come.
    named: Option<usize>,
}

/// The number of a task in the argument of CMD44 and CMD46 to CMD48.
fn number(arg: u32) -> usize {
    (arg >> 16 & 0x1f) as usize
}

impl TaskQueue {
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn is_empty(&self) -> bool {
        self.tasks.iter().all(Option::is_none)
    }

    /// The queue status register: a bit for each task that can be executed (eMMC 6.6.39.4).
    fn ready(&self) -> u32 {
        let ready = |task: &Option<Task>| task.is_some_and(|task| task.address.is_some());
        let bit = |(i, task)| u32::from(ready(task)) << i;
        self.tasks.iter().enumerate().map(bit).fold(0, |all, bit| all | bit)
    }
}

impl Card {
    /// Whether commands are queued. Then those that move or erase data by themselves are not legal.
    pub(super) fn is_queuing(&self) -> bool {
        matches!(&self.own, Own::Emmc(emmc) if emmc.has_queue_on())
    }

    /// CMD13 asks for the queue status.
    pub(super) fn queue_status(&mut self) -> Option<Reply> {
        let Own::Emmc(emmc) = &self.own else { return None };
        let ready = emmc.tasks.ready();
        self.is_queuing().then(|| Reply::new(Response::Normal(ready)))
    }

    /// CMD44 to CMD48.
    pub(super) fn execute_queue(&mut self, name: Name, arg: u32) -> Reply {
        if !self.is_queuing() {
            return self.refuse();
        }
        match name {
            Name::QueuedTaskParams => self.name_task(arg),
            Name::QueuedTaskAddress => self.place_task(arg),
            Name::ExecuteReadTask => self.execute_task(arg, true),
            Name::ExecuteWriteTask => self.execute_task(arg, false),
            Name::ManageTasks => self.manage_tasks(arg),
            _ => self.refuse(),
        }
    }

    fn name_task(&mut self, arg: u32) -> Reply {
        let Own::Emmc(emmc) = &mut self.own else { return self.refuse() };
        let blocks = arg & params::BLOCKS;
        let free = emmc.tasks.tasks.get(number(arg)).is_some_and(Option::is_none);
        if !free || blocks == 0 {
            return self.refuse();
        }
        // One that was not placed is forgotten for the next one.
        if let Some(old) = emmc.tasks.named.replace(number(arg)) {
            emmc.tasks.tasks[old] = None;
        }
        let (read, durable) = (arg & params::READ != 0, arg & params::DURABLE != 0);
        emmc.tasks.tasks[number(arg)] = Some(Task { read, blocks, durable, address: None });
        self.answer()
    }

    fn place_task(&mut self, arg: u32) -> Reply {
        let (address, limit) = (self.address(arg), self.area().1);
        let Own::Emmc(emmc) = &mut self.own else { return self.refuse() };
        let Some(number) = emmc.tasks.named.take() else { return self.refuse() };
        let Some(task) = &mut emmc.tasks.tasks[number] else { return self.refuse() };
        let len = u64::from(task.blocks) * 512;
        if address >= limit || limit - address < len {
            emmc.tasks.tasks[number] = None;
            self.errors |= status::OUT_OF_RANGE;
        } else {
            task.address = Some(arg);
        }
        self.answer()
    }

    fn execute_task(&mut self, arg: u32, read: bool) -> Reply {
        let Own::Emmc(emmc) = &mut self.own else { return self.refuse() };
        let slot = emmc.tasks.tasks.get_mut(number(arg));
        let fits = |task: &&mut Option<Task>| {
            task.is_some_and(|task| task.read == read && task.address.is_some())
        };
        let Some(task) = slot.filter(fits).and_then(Option::take) else { return self.refuse() };
        let count = Some((task.blocks, task.durable));
        let address = task.address.unwrap_or_default();
        if read { self.read(address, count) } else { self.write(address, count) }
    }

    fn manage_tasks(&mut self, arg: u32) -> Reply {
        let Own::Emmc(emmc) = &mut self.own else { return self.refuse() };
        match arg & 0x0f {
            operation::DISCARD_ALL => emmc.tasks.clear(),
            operation::DISCARD_ONE if number(arg) < QUEUE_DEPTH => {
                emmc.tasks.tasks[number(arg)] = None;
                emmc.tasks.named = emmc.tasks.named.filter(|named| *named != number(arg));
            }
            _ => return self.refuse(),
        }
        let response = Response::Normal(self.status());
        Reply { response, then: Then::Busy }
    }
}
