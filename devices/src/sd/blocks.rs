//! Data: blocks of the medium, and what a card takes for itself.

use spindle_block::BlockError;

use super::{
    Card, Reply, Response, Stream, Then,
    card::{Own, Taking},
    error_bits,
    spec::{BLOCK, State, status},
};

impl Card {
    /// Bytes of a block of data. High capacity cards know only one (SD 4.3.2).
    pub(super) fn data_len(&self) -> u32 {
        if self.is_byte_addressed() { self.block_len } else { BLOCK }
    }

    /// Checks a data address; errors are noted.
    fn start(&mut self, arg: u32, write: bool) -> Option<u64> {
        let (address, len) = (self.address(arg), u64::from(self.data_len()));
        let (_, limit) = self.area();
        let block = u64::from(BLOCK);
        if write && len != block {
            self.errors |= status::BLOCK_LEN_ERROR;
        } else if address >= limit || limit - address < len {
            self.errors |= status::OUT_OF_RANGE;
        } else if address % block + len.min(block) > block {
            self.errors |= status::ADDRESS_ERROR;
        } else {
            return Some(address);
        }
        None
    }

    pub(super) fn read(&mut self, arg: u32, count: Option<(u32, bool)>) -> Reply {
        if matches!(&self.own, Own::Emmc(emmc) if emmc.in_rpmb()) {
            return self.read_rpmb(count.map(|(blocks, _)| blocks));
        }
        let start = self.start(arg, false);
        let response = Response::Normal(self.status());
        let Some(address) = start else { return Reply::new(response) };
        self.stream_blocks(address, false, count);
        Reply { response, then: Then::Stream }
    }

    pub(super) fn write(&mut self, arg: u32, count: Option<(u32, bool)>) -> Reply {
        if matches!(&self.own, Own::Emmc(emmc) if emmc.in_rpmb()) {
            return self.write_rpmb(count);
        }
        let start = self.start(arg, true);
        if start.is_some() && self.is_protected() {
            self.errors |= status::WP_VIOLATION;
        }
        if let Own::Sd(card) = &mut self.own {
            card.written = 0;
        }
        let response = Response::Normal(self.status());
        let Some(address) = start else { return Reply::new(response) };
        self.stream_blocks(address, true, count);
        Reply { response, then: Then::Stream }
    }

    pub(super) fn stream_blocks(&mut self, address: u64, write: bool, count: Option<(u32, bool)>) {
        let (base, len) = self.area();
        self.state = if write { State::Receiving } else { State::Sending };
        self.stream = Some(Stream {
            write,
            durable: write && (self.is_durable() || count.is_some_and(|(_, durable)| durable)),
            block_len: self.data_len(),
            left: count.map(|(blocks, _)| blocks),
            offset: base + address,
            end: base + len,
        });
    }

    /// The blocks on their way, if any are.
    #[must_use]
    pub fn stream(&self) -> Option<&Stream> {
        self.stream.as_ref()
    }

    /// How many of the next `wanted` blocks can go at once. A write that reaches protected blocks ends
    /// before them, with its error noted.
    pub fn next_blocks(&mut self, wanted: u32) -> u32 {
        let Some(stream) = self.stream else { return 0 };
        let mut blocks = stream.next(wanted);
        if stream.write && blocks > 0 {
            if self.is_protected() {
                blocks = 0;
            } else if self.in_user_area() {
                let mut range = stream.range(blocks);
                range.offset -= self.area().0;
                blocks = (self.protect.open(range) / u64::from(stream.block_len)) as u32;
            }
            if blocks == 0 {
                self.errors |= status::WP_VIOLATION;
            }
        }
        if blocks == 0 && !stream.is_over() && self.errors & status::WP_VIOLATION == 0 {
            self.errors |= status::OUT_OF_RANGE;
        }
        blocks
    }

    /// `blocks` have been moved, or could not be.
    pub fn moved(&mut self, blocks: u32, result: Result<(), BlockError>) {
        let Some(stream) = &mut self.stream else { return };
        match result {
            Ok(()) => {
                stream.offset += u64::from(blocks) * u64::from(stream.block_len);
                if let Some(left) = &mut stream.left {
                    *left = left.saturating_sub(blocks);
                }
                if stream.write {
                    self.dirty |= !stream.durable;
                    if let Own::Sd(card) = &mut self.own {
                        card.written = card.written.saturating_add(blocks);
                    }
                }
                let over = self.stream.is_some_and(|stream| stream.is_over());
                if over {
                    self.end_stream();
                }
            }
            Err(error) => {
                self.errors |= error_bits(error);
                if self.stream.is_some_and(|stream| stream.left.is_some()) {
                    self.end_stream();
                }
            }
        }
    }

    pub(super) fn end_stream(&mut self) {
        self.stream = None;
        if matches!(self.state, State::Sending | State::Receiving) {
            self.state = State::Transfer;
        }
    }

    /// The host has stopped before the data phase was over: blocks that were counted are forgotten.
    /// An open-ended transfer goes on until the host stops it by command.
    pub fn cut_off(&mut self) {
        if self.stream.is_some_and(|stream| stream.left.is_some()) {
            self.end_stream();
        }
        if self.taking.take().is_some() {
            self.state = State::Transfer;
        }
    }

    /// What [`Then::Fetch`] asked for was read, or could not be.
    pub fn fetched(&mut self, read: Result<Vec<u8>, BlockError>) -> Vec<u8> {
        match &mut self.own {
            Own::Emmc(emmc) => emmc.rpmb.answer_read(read),
            Own::Sd(_) => Vec::new(),
        }
    }

    /// What [`Then::Take`] asked for. The card is busy afterwards if there are steps.
    pub fn received(&mut self, bytes: &[u8]) {
        let Some(what) = self.taking.take() else { return };
        self.state = State::Transfer;
        match what {
            Taking::Lock => self.lock_command(bytes),
            Taking::Csd => self.program_csd(bytes),
            // It is written by the maker, once.
            Taking::Cid => self.errors |= status::CSD_OVERWRITE,
            Taking::General => {}
            Taking::BusTest | Taking::Rpmb => self.received_emmc(what, bytes),
        }
        if !self.job.is_empty() {
            self.state = State::Programming;
        }
    }
}
