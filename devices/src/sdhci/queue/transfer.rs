//! The data phase: pieces of blocks between card and guest memory, or the buffer of the data port.

use spindle_block::{IoBuf, Op, iothread::Port};

use super::{STOP_TRANSMISSION, SdQueue, flight::Piece};
use crate::{
    Dma,
    sd::Then,
    sdhci::{
        regs::{Name, Request},
        sg::{Adma, AdmaError, Sdma},
        spec::{error, mode, normal},
        status::Words,
    },
};

/// The most bytes that go at once.
const CHUNK: u32 = 512 << 10;
/// The most bytes in the buffer of the data port.
const BUFFER: u32 = 64 << 10;

/// Where data come from, or go to, on the card's side.
pub(super) enum Source {
    /// The card says where: blocks of the medium.
    Stream,
    /// It sends these bytes; so many are sent.
    Bytes(Vec<u8>, usize),
    /// It takes so many bytes.
    Sink(Vec<u8>, usize),
    /// What it sends is being read.
    Fetching,
}

/// How data reach the guest.
enum Way {
    /// Through the data port.
    Port,
    Sdma(Sdma),
    Adma(Adma),
}

/// A block that an SDMA boundary cuts in two.
struct Cut {
    bytes: Vec<u8>,
    at: usize,
}

/// See the module.
pub(super) struct Transfer {
    /// The response, until it is told: with the end of the data, where that comes at once, so that
    /// there is one interrupt.
    pub words: Option<Words>,
    pub source: Source,
    way: Way,
    write: bool,
    block_len: u32,
    /// Blocks that the guest wants; `None`: until it stops.
    wanted: Option<u32>,
    auto_stop: bool,
    /// It goes on when the guest says so.
    waits: bool,
    /// A command has ended it.
    aborted: bool,
    cut: Option<Cut>,
}

impl Source {
    /// How many of `wanted` blocks this has, or takes.
    fn room(&self, wanted: u32, block_len: u32) -> u32 {
        let left = match self {
            Self::Stream | Self::Fetching => return wanted,
            Self::Bytes(bytes, at) => bytes.len() - at,
            Self::Sink(bytes, len) => len - bytes.len(),
        };
        wanted.min((left / block_len.max(1) as usize) as u32)
    }
}

impl SdQueue {
    /// The data phase of a command that was answered.
    pub(super) fn begin_data(
        &mut self,
        port: &mut Port<'_>,
        request: &Request,
        words: Words,
        then: Then,
    ) {
        let write = request.mode & mode::READ == 0;
        let stream = self.seat.as_ref().and_then(|seat| seat.card.stream().copied());
        let fetch = match then {
            Then::Fetch(range) => Some(range),
            _ => None,
        };
        let (source, sends, block_len) = match then {
            Then::Send(bytes, len) => (Some(Source::Bytes(bytes, 0)), true, len),
            Then::Fetch(_) => (Some(Source::Fetching), true, 512),
            Then::Take { blocks, block_len } => {
                let len = blocks as usize * block_len as usize;
                (Some(Source::Sink(Vec::with_capacity(len), len)), false, block_len)
            }
            Then::Stream => {
                let (write, len) = stream.map_or((false, 0), |s| (s.write, s.block_len));
                (Some(Source::Stream), !write, len)
            }
            Then::Nothing | Then::Busy => (None, true, 0),
        };
        let wanted = match (request.mode & mode::MULTIPLE != 0, request.mode & mode::COUNT != 0) {
            (false, _) => Some(1),
            (true, true) => Some(request.block_count.into()),
            (true, false) => None,
        };
        let way = if !request.uses_dma() {
            Way::Port
        } else {
            match Adma::new(request.select, request.adma) {
                Some(adma) => Way::Adma(adma),
                None => Way::Sdma(Sdma::new(request.sdma, request.block_size)),
            }
        };
        let width = self.seat.as_ref().map_or(0, |seat| seat.card.width());
        let host_len = u32::from(request.block_size & 0xfff);
        self.host.regs().begin_data(write);
        let auto_stop = request.mode & mode::AUTO == mode::AUTO_12;
        let errors = match &source {
            // Nobody sends, or nobody takes.
            None => error::DATA_TIMEOUT,
            Some(_) if sends == write => error::DATA_TIMEOUT,
            Some(_) if host_len > block_len && sends => error::DATA_TIMEOUT,
            Some(_) if host_len != block_len || width != request.width => error::DATA_CRC,
            Some(_) => 0,
        };
        self.transfer = Some(Transfer {
            words: Some(words),
            source: source.unwrap_or(Source::Fetching),
            way,
            write,
            block_len,
            wanted,
            auto_stop,
            waits: false,
            aborted: false,
            cut: None,
        });
        if errors != 0 {
            return self.fail(errors);
        }
        if wanted.is_none() {
            // Nothing but a command ends it.
            self.tell_response();
        }
        if let Some(range) = fetch {
            return self.fetch(port, range);
        }
        self.pump(port);
    }

    /// Moves data as far as they go.
    pub(super) fn pump(&mut self, port: &mut Port<'_>) {
        while self.flight.is_none() && self.parked.is_none() {
            let Some(transfer) = &self.transfer else { return };
            if transfer.waits {
                return;
            }
            if transfer.cut.is_some() {
                self.go_on_with_cut(port);
                continue;
            }
            let ended = match &transfer.way {
                // Without a count the table says how much it is.
                Way::Adma(adma) => transfer.wanted.is_none() && !adma.has_more(),
                Way::Port | Way::Sdma(_) => false,
            };
            if transfer.wanted == Some(0) || ended {
                return self.finish(port);
            }
            self.next_piece(port);
        }
    }

    /// How many blocks the next piece can have; 0: the card has, or takes, no more.
    fn piece(&mut self) -> u32 {
        let Some(transfer) = &self.transfer else { return 0 };
        let len = transfer.block_len.max(1);
        let most = match transfer.way {
            Way::Port => BUFFER / len,
            Way::Sdma(_) | Way::Adma(_) => CHUNK / len,
        };
        let most = if self.host.regs().stops_at_gap() { 1 } else { most.max(1) };
        let wanted = transfer.wanted.unwrap_or(u32::MAX).min(most);
        match (&transfer.source, &mut self.seat) {
            (Source::Stream, Some(seat)) => seat.card.next_blocks(wanted),
            (source, _) => source.room(wanted, len),
        }
    }

    fn next_piece(&mut self, port: &mut Port<'_>) {
        let blocks = self.piece();
        if blocks == 0 {
            let write = self.transfer.as_ref().is_some_and(|transfer| transfer.write);
            return self.fail(if write { error::DATA_CRC } else { error::DATA_TIMEOUT });
        }
        let mut buf = std::mem::take(&mut self.buf);
        buf.clear();
        let dma = self.host.dma.clone();
        let Some(transfer) = &mut self.transfer else { return };
        let len = transfer.block_len;
        let open = transfer.wanted.is_none();
        match &mut transfer.way {
            Way::Port => {
                self.buf = buf;
                self.use_port(port, blocks);
            }
            Way::Adma(adma) => match adma.gather(&dma, &mut buf, blocks, len, open) {
                Ok(blocks) => self.use_memory(port, blocks, buf, false),
                Err(error) => {
                    self.buf = buf;
                    self.fail_adma(error);
                }
            },
            Way::Sdma(sdma) => {
                let whole = (sdma.room() / len.max(1)).min(blocks);
                if whole == 0 {
                    self.buf = buf;
                    return self.cut_block(port);
                }
                let bytes = whole * len;
                match dma.push(&mut buf, sdma.address.into(), bytes.into()) {
                    Ok(()) => self.use_memory(port, whole, buf, false),
                    Err(_) => {
                        self.buf = buf;
                        self.fail(error::TARGET);
                    }
                }
            }
        }
    }

    /// Moves blocks between the card and this memory.
    fn use_memory(&mut self, port: &mut Port<'_>, blocks: u32, mut buf: IoBuf, own: bool) {
        let Some(transfer) = &mut self.transfer else { return };
        let len = buf.len() as usize;
        match &mut transfer.source {
            Source::Stream => {
                let Some(stream) = self.seat.as_ref().and_then(|seat| seat.card.stream()) else {
                    self.keep(buf, own);
                    return self.fail(error::DATA_TIMEOUT);
                };
                let op = if stream.write { Op::Write { fua: stream.durable } } else { Op::Read };
                let range = stream.range(blocks);
                self.submit(port, Piece { op, range, blocks, own }, buf);
            }
            Source::Bytes(bytes, at) => {
                buf.write_at(0, &bytes[*at..*at + len]);
                *at += len;
                if !own {
                    self.host.dma.wrote(&buf);
                }
                self.chunk_done(blocks, buf, own);
            }
            Source::Sink(bytes, _) => {
                bytes.extend(buf.to_vec());
                self.chunk_done(blocks, buf, own);
            }
            Source::Fetching => self.keep(buf, own),
        }
    }

    /// Blocks have been moved.
    pub(super) fn chunk_done(&mut self, blocks: u32, buf: IoBuf, own: bool) {
        let Some(transfer) = &mut self.transfer else { return self.keep(buf, own) };
        if let Some(wanted) = &mut transfer.wanted {
            *wanted = wanted.saturating_sub(blocks);
        }
        let bytes = blocks * transfer.block_len;
        let over = transfer.wanted == Some(0);
        let mut interrupts = 0;
        match &mut transfer.way {
            Way::Port => {
                let (block, write) = (transfer.block_len as usize, transfer.write);
                if !write {
                    transfer.waits = true;
                    self.tell_response();
                    self.touched = true;
                    self.host.regs().open_buffer(buf.to_vec(), block, false);
                }
                return;
            }
            Way::Adma(adma) => {
                if std::mem::take(&mut adma.interrupt) {
                    interrupts |= normal::DMA;
                }
            }
            Way::Sdma(sdma) if transfer.cut.is_none() => {
                // At a boundary it waits for a new address, unless it is over.
                if sdma.advance(bytes) && !over {
                    transfer.waits = true;
                    interrupts |= normal::DMA;
                }
            }
            Way::Sdma(_) => {
                // The block that was read, or written, in one piece although its memory is in two.
                if let Some(cut) = &mut transfer.cut {
                    if transfer.write {
                        transfer.cut = None;
                    } else {
                        cut.bytes = buf.to_vec();
                        cut.at = 0;
                    }
                }
            }
        }
        let waits = transfer.waits;
        let sdma = match &transfer.way {
            Way::Sdma(sdma) => Some(sdma.address),
            Way::Port | Way::Adma(_) => None,
        };
        self.keep(buf, own);
        {
            let mut regs = self.host.regs();
            regs.count_blocks(blocks);
            if let Some(address) = sdma {
                regs.set(Name::SdmaAddress, address.into());
            }
            regs.raise(interrupts);
            regs.waiting = waits;
        }
        self.touched |= interrupts != 0;
        if waits {
            self.tell_response();
        } else if !over && self.host.regs().stops_at_gap() {
            self.stop_at_gap();
        }
    }

    /// The guest has asked for a stop after a block (SDHC 2.2.12).
    fn stop_at_gap(&mut self) {
        self.tell_response();
        if let Some(transfer) = &mut self.transfer {
            transfer.waits = true;
        }
        self.touched = true;
        let mut regs = self.host.regs();
        regs.waiting = true;
        regs.raise(normal::GAP | normal::TRANSFER);
    }

    /// The guest lets the transfer go on.
    pub(super) fn resume_transfer(&mut self, port: &mut Port<'_>) {
        let address = self.host.regs().get(Name::SdmaAddress) as u32;
        let Some(transfer) = &mut self.transfer else { return };
        if let Way::Sdma(sdma) = &mut transfer.way {
            sdma.address = address;
        }
        if !matches!(transfer.way, Way::Port) {
            transfer.waits = false;
        }
        self.pump(port);
    }

    /// A block whose memory lies on both sides of a boundary goes through a buffer of its own.
    fn cut_block(&mut self, port: &mut Port<'_>) {
        let Some(transfer) = &mut self.transfer else { return };
        let len = transfer.block_len as usize;
        // What is read comes first; what is written is collected first.
        transfer.cut = Some(Cut { bytes: vec![0; len], at: if transfer.write { 0 } else { len } });
        if !transfer.write {
            self.use_memory(port, 1, IoBuf::zeroed(len), true);
        }
    }

    /// Copies up to the boundary, or to the end of the block.
    fn go_on_with_cut(&mut self, port: &mut Port<'_>) {
        let dma: Dma = self.host.dma.clone();
        let Some(transfer) = &mut self.transfer else { return };
        let (Some(cut), Way::Sdma(sdma)) = (&mut transfer.cut, &mut transfer.way) else { return };
        let left = cut.bytes.len() - cut.at;
        let n = left.min(sdma.room() as usize);
        let part = &mut cut.bytes[cut.at..cut.at + n];
        let address = u64::from(sdma.address);
        let copied = if transfer.write {
            dma.read_bytes(address, part)
        } else {
            dma.write_bytes(address, part)
        };
        if copied.is_err() {
            return self.fail(error::TARGET);
        }
        cut.at += n;
        let whole = cut.at == cut.bytes.len();
        let last =
            whole && (transfer.wanted == Some(0) || transfer.write && transfer.wanted == Some(1));
        let stops = sdma.advance(n as u32) && !last;
        transfer.waits = stops;
        let write = transfer.write;
        let bytes = if whole && write { cut.bytes.clone() } else { Vec::new() };
        if whole && !write {
            transfer.cut = None;
        }
        {
            let mut regs = self.host.regs();
            regs.set(Name::SdmaAddress, sdma.address.into());
            regs.waiting = stops;
            if stops {
                regs.raise(normal::DMA);
            }
        }
        if stops {
            self.touched = true;
            self.tell_response();
        }
        if whole && write {
            self.use_memory(port, 1, IoBuf::from_slice(&bytes), true);
        }
    }

    /// Moves blocks through the data port.
    fn use_port(&mut self, port: &mut Port<'_>, blocks: u32) {
        let Some(transfer) = &mut self.transfer else { return };
        let len = blocks as usize * transfer.block_len as usize;
        if !transfer.write {
            return self.use_memory(port, blocks, IoBuf::zeroed(len), true);
        }
        transfer.waits = true;
        let block = transfer.block_len as usize;
        self.tell_response();
        self.touched = true;
        self.host.regs().open_buffer(vec![0; len], block, true);
    }

    /// The buffer of the data port is empty, or full.
    pub(super) fn buffer_turned(&mut self, port: &mut Port<'_>) {
        let bytes = self.host.regs().take_buffer();
        let Some(transfer) = &mut self.transfer else { return };
        transfer.waits = false;
        if transfer.write {
            let blocks = (bytes.len() / transfer.block_len.max(1) as usize) as u32;
            self.use_memory(port, blocks, IoBuf::from_slice(&bytes), true);
        }
        self.pump(port);
    }

    /// All blocks have been moved.
    fn finish(&mut self, port: &mut Port<'_>) {
        self.tell_response();
        let Some(transfer) = &mut self.transfer else { return };
        let mut errors = 0;
        let mut adma_error = 0;
        if let Way::Adma(adma) = &transfer.way {
            self.host.regs().set(Name::AdmaAddress, adma.next);
            if let Err(AdmaError(bits)) = adma.finish()
                && !transfer.aborted
            {
                (errors, adma_error) = (error::ADMA, bits);
            }
        }
        let auto_stop = transfer.auto_stop;
        let sink = match &mut transfer.source {
            Source::Sink(bytes, len) if bytes.len() == *len => Some(std::mem::take(bytes)),
            _ => None,
        };
        let taken = sink.is_some();
        if let Some(seat) = &mut self.seat {
            match sink {
                Some(bytes) => seat.card.received(&bytes),
                None if matches!(transfer.source, Source::Sink(..)) => seat.card.cut_off(),
                None => {}
            }
        }
        if auto_stop {
            self.auto_command(STOP_TRANSMISSION, 0);
        }
        if errors != 0 {
            self.host.regs().set(Name::AdmaError, u64::from(adma_error));
            return self.data_over(false, errors);
        }
        let busy = taken && self.seat.as_ref().is_some_and(|seat| seat.card.has_steps());
        if busy {
            self.transfer = None;
            self.stepping = Some(true);
            return self.run_steps(port);
        }
        self.data_over(true, 0);
        self.step_aside(port);
    }

    fn fail_adma(&mut self, AdmaError(bits): AdmaError) {
        if let Some(Transfer { way: Way::Adma(adma), .. }) = &self.transfer {
            let mut regs = self.host.regs();
            regs.set(Name::AdmaAddress, adma.next);
            regs.set(Name::AdmaError, bits.into());
        }
        self.fail(error::ADMA);
    }

    /// A command has ended the transfer: what is in flight ends first.
    pub(super) fn abort_transfer(&mut self) {
        let Some(transfer) = &mut self.transfer else { return };
        transfer.wanted = Some(0);
        (transfer.aborted, transfer.auto_stop, transfer.waits) = (true, false, false);
        transfer.cut = None;
        if self.flight.is_none() {
            self.tell_response();
            self.data_over(true, 0);
        }
    }

    /// Takes memory back that names the guest's; the queue's own goes.
    pub(super) fn keep(&mut self, mut buf: IoBuf, own: bool) {
        if !own {
            buf.clear();
            self.buf = buf;
        }
    }
}
