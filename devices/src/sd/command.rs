//! Commands, and what a card answers.

use super::{
    Card, Reply, Response, Then,
    card::{Own, Taking},
    spec::{State, status},
    table::{Name, Row, find},
};

impl Card {
    /// Executes a command. While the card is busy it takes only those that are legal then.
    pub fn command(&mut self, index: u8, arg: u32) -> Reply {
        let app = std::mem::take(&mut self.app);
        self.before = self.state;
        if self.state == State::Inactive {
            return Reply::SILENCE;
        }
        let Some(row) = find(self.is_emmc(), index, app) else { return self.refuse() };
        if row.addressed && row.name != Name::RelativeAddress {
            let named = (arg >> 16) as u16;
            if named != self.rca {
                return self.not_for_us(row);
            }
        }
        let unqueued = row.is_unqueued() && self.is_queuing();
        if self.lock.locked && !row.when_locked || !row.is_legal(self.state) || unqueued {
            return self.refuse();
        }
        if !matches!(row.name, Name::EraseStart | Name::EraseEnd | Name::Erase | Name::SendStatus) {
            self.leave_erase();
        }
        let keeps_count = matches!(
            row.name,
            Name::SetBlockCount | Name::ReadMultiple | Name::WriteMultiple | Name::SendStatus
        );
        if !keeps_count {
            self.count = None;
        }
        self.execute(row, arg)
    }

    /// A command that is not legal: silence, and a bit in the next status.
    pub(super) fn refuse(&mut self) -> Reply {
        self.errors |= status::ILLEGAL_COMMAND;
        self.count = None;
        Reply::SILENCE
    }

    /// A command for another card.
    fn not_for_us(&mut self, row: &Row) -> Reply {
        if row.name == Name::Select {
            self.deselect();
        }
        Reply::SILENCE
    }

    fn deselect(&mut self) {
        match self.state {
            State::Transfer | State::Sending => {
                self.state = State::Standby;
                self.stream = None;
                self.flush();
            }
            State::Programming => self.state = State::Disconnect,
            _ => {}
        }
    }

    fn execute(&mut self, row: &Row, arg: u32) -> Reply {
        match row.name {
            Name::GoIdle => {
                self.go_idle();
                Reply::SILENCE
            }
            Name::AllSendCid => {
                self.state = State::Ident;
                Reply::new(Response::Long(self.cid().0))
            }
            Name::SendCid => Reply::new(Response::Long(self.cid().0)),
            Name::SendCsd => Reply::new(Response::Long(self.csd().0)),
            Name::SetDsr => Reply::SILENCE,
            Name::Select => self.select(),
            Name::StopTransmission => self.stop(),
            Name::SendStatus => self.send_status(arg),
            Name::GoInactive => {
                self.state = State::Inactive;
                Reply::SILENCE
            }
            Name::SetBlockLen => self.set_block_len(arg),
            Name::ReadSingle => self.read(arg, Some((1, false))),
            Name::ReadMultiple => {
                let count = self.count.take();
                self.read(arg, count)
            }
            Name::WriteSingle => self.write(arg, Some((1, false))),
            Name::WriteMultiple => {
                let count = self.count.take();
                self.write(arg, count)
            }
            Name::SetBlockCount => self.set_block_count(arg),
            Name::ProgramCsd => self.take(Taking::Csd, 16),
            Name::ProgramCid => self.take(Taking::Cid, 16),
            Name::LockUnlock => self.take(Taking::Lock, self.block_len),
            Name::GeneralCommand => self.general(arg),
            Name::SetWriteProtect => self.protect_group(arg, true),
            Name::ClearWriteProtect => self.protect_group(arg, false),
            Name::SendWriteProtect => self.send_protection(arg, false),
            Name::SendWriteProtectType => self.send_protection(arg, true),
            Name::EraseStart => {
                self.erase_start(arg);
                self.answer()
            }
            Name::EraseEnd => {
                self.erase_end(arg);
                self.answer()
            }
            Name::Erase => {
                self.erase(arg);
                self.busy()
            }
            Name::RelativeAddress if self.is_emmc() => {
                self.rca = (arg >> 16) as u16;
                self.state = State::Standby;
                self.answer()
            }
            name @ (Name::QueuedTaskParams
            | Name::QueuedTaskAddress
            | Name::ExecuteReadTask
            | Name::ExecuteWriteTask
            | Name::ManageTasks) => self.execute_queue(name, arg),
            name if self.is_emmc() => self.execute_emmc(name, arg),
            name => self.execute_sd(name, arg),
        }
    }

    /// The card status, as R1 tells it: errors are told once.
    pub(super) fn status(&mut self) -> u32 {
        let errors = std::mem::take(&mut self.errors);
        let mut bits = errors | u32::from(self.before as u8) << status::STATE_SHIFT;
        if self.before != State::Programming && self.job.is_empty() {
            bits |= status::READY_FOR_DATA;
        }
        if self.lock.locked {
            bits |= status::CARD_IS_LOCKED;
        }
        if matches!(&self.own, Own::Emmc(emmc) if emmc.has_exception()) {
            bits |= status::EXCEPTION_EVENT;
        }
        bits
    }

    /// R1.
    pub(super) fn answer(&mut self) -> Reply {
        Reply::new(Response::Normal(self.status()))
    }

    /// R1, and data.
    pub(super) fn send(&mut self, bytes: Vec<u8>) -> Reply {
        let len = bytes.len() as u32;
        let response = Response::Normal(self.status());
        Reply { response, then: Then::Send(bytes, len) }
    }

    /// R1b: busy as long as there are steps.
    pub(super) fn busy(&mut self) -> Reply {
        let response = Response::Normal(self.status());
        if !self.job.is_empty() {
            match self.state {
                State::Transfer | State::Receiving | State::Sending => {
                    self.state = State::Programming;
                }
                _ => {}
            }
        }
        Reply { response, then: Then::Busy }
    }

    pub(super) fn take(&mut self, what: Taking, len: u32) -> Reply {
        let response = Response::Normal(self.status());
        self.state = State::Receiving;
        self.taking = Some(what);
        Reply { response, then: Then::Take { blocks: 1, block_len: len } }
    }

    fn select(&mut self) -> Reply {
        if self.rca == 0 {
            self.deselect();
            return Reply::SILENCE;
        }
        match self.state {
            State::Standby => self.state = State::Transfer,
            State::Disconnect => self.state = State::Programming,
            // It is selected already.
            _ => return self.refuse(),
        }
        self.busy()
    }

    fn stop(&mut self) -> Reply {
        let writing = self.state == State::Receiving;
        self.stream = None;
        self.taking = None;
        self.state = State::Transfer;
        if writing { self.busy() } else { self.answer() }
    }

    fn send_status(&mut self, arg: u32) -> Reply {
        const HPI: u32 = 1;
        const QUEUE: u32 = 1 << 15;
        if arg & QUEUE != 0
            && let Some(reply) = self.queue_status()
        {
            return reply;
        }
        if arg & HPI != 0 && matches!(&self.own, Own::Emmc(emmc) if emmc.has_hpi_on()) {
            // What is under way ends; the rest is not begun.
            self.job.clear();
        }
        self.answer()
    }

    fn set_block_len(&mut self, len: u32) -> Reply {
        let max = 1 << self.csd().get(83, 80);
        if len == 0 || len > max {
            self.errors |= status::BLOCK_LEN_ERROR;
        } else {
            self.block_len = len;
        }
        self.answer()
    }

    fn set_block_count(&mut self, arg: u32) -> Reply {
        let (blocks, durable) = match &self.own {
            Own::Sd(card) if !card.has_block_count() => return self.refuse(),
            Own::Sd(_) => (arg, false),
            // Reliable write, forced programming.
            Own::Emmc(_) => (arg & 0xffff, arg & (1 << 31 | 1 << 24) != 0),
        };
        self.count = (blocks != 0).then_some((blocks, durable));
        self.answer()
    }
}
