//! The one request that is under way below: data, or a step of the card's own.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Instant,
};

use spindle_block::{BlockError, Io, IoBuf, Op, Range, iothread::Port, root::Account};

use super::{SdQueue, saved, transfer::Source};
use crate::{policy::ErrorAction, sd::Step, sdhci::status::data_error};

/// Blocks of the medium, and whose memory they go to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub op: Op,
    pub range: Range,
    pub blocks: u32,
    /// The memory is the queue's own, not the guest's.
    pub own: bool,
}

/// What is under way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Flight {
    /// Blocks of the medium.
    Chunk { piece: Piece, started: Instant },
    /// What a card has to read before it can answer.
    Fetch,
    /// A step of the card.
    Step,
    /// A section of its state is being kept.
    Save,
}

/// A request that failed and waits.
pub(super) struct Parked {
    piece: Piece,
    buf: IoBuf,
}

impl SdQueue {
    /// Submits blocks of the medium.
    pub(super) fn submit(&mut self, port: &mut Port<'_>, piece: Piece, buf: IoBuf) {
        let Some(seat) = &mut self.seat else { return };
        let started = port.cx().now();
        self.flight = Some(Flight::Chunk { piece, started });
        let Piece { op, range, .. } = piece;
        port.submit(&mut seat.root, Io { op, range, buf }, 0);
    }

    /// Submits what a card has to read first.
    pub(super) fn fetch(&mut self, port: &mut Port<'_>, range: Range) {
        let Some(seat) = &mut self.seat else { return };
        self.flight = Some(Flight::Fetch);
        let buf = IoBuf::zeroed(range.len as usize);
        port.submit(&mut seat.root, Io::read(range.offset, buf), 0);
    }

    /// Submits a parked request again.
    pub(super) fn replay(&mut self, port: &mut Port<'_>) {
        if let Some(Parked { piece, buf }) = self.parked.take() {
            self.submit(port, piece, buf);
        }
    }

    /// A request has ended.
    pub(super) fn landed(
        &mut self,
        port: &mut Port<'_>,
        buf: IoBuf,
        result: Result<(), BlockError>,
    ) {
        match self.flight.take() {
            Some(Flight::Chunk { piece, started }) => {
                let took = port.cx().now().saturating_duration_since(started);
                let kind = if piece.op == Op::Read { Account::Read } else { Account::Write };
                if let Some(seat) = &mut self.seat {
                    seat.root.account(port.cx().lane(), kind, piece.range.len, took, result);
                }
                self.chunk_landed(port, piece, buf, result);
            }
            Some(Flight::Fetch) => {
                let read = result.map(|()| buf.to_vec());
                if self.is_abandoned() {
                    return self.finish_waiting();
                }
                let Some(seat) = &mut self.seat else { return };
                let bytes = seat.card.fetched(read);
                if let Some(transfer) = &mut self.transfer {
                    transfer.source = Source::Bytes(bytes, 0);
                }
                self.pump(port);
            }
            Some(Flight::Step) => self.step_over(port, result),
            other => self.flight = other,
        }
    }

    fn chunk_landed(
        &mut self,
        port: &mut Port<'_>,
        piece: Piece,
        buf: IoBuf,
        result: Result<(), BlockError>,
    ) {
        let Piece { op, blocks, own, .. } = piece;
        let abandoned = self.is_abandoned();
        let root = self.seat.as_ref().map_or("", |seat| seat.root.root().name());
        let action = match result {
            Err(error) if !abandoned => Some(self.failures.decide(op, root, error)),
            _ => None,
        };
        let result = match action {
            Some(ErrorAction::Stop) => {
                self.parked = Some(Parked { piece, buf });
                return;
            }
            Some(ErrorAction::Ignore) => Ok(()),
            Some(ErrorAction::Report) | None => result,
        };
        if op == Op::Read && result.is_ok() && !own {
            self.host.dma.wrote(&buf);
        }
        if let Some(seat) = &mut self.seat {
            seat.card.moved(blocks, result);
        }
        if abandoned {
            self.keep(buf, own);
            return self.finish_waiting();
        }
        match result {
            Ok(()) => {
                self.chunk_done(blocks, buf, own);
                self.pump(port);
            }
            Err(error) => {
                self.keep(buf, own);
                self.fail(data_error(error, op.writes()));
            }
        }
    }

    /// Takes the card's next steps until one has to be waited for; then, or if none is left, the
    /// guest's wait is over.
    pub(super) fn run_steps(&mut self, port: &mut Port<'_>) {
        let Some(told) = self.stepping else { return };
        while self.flight.is_none() {
            let Some(seat) = &mut self.seat else { break };
            match seat.card.next_step() {
                None => {
                    self.stepping = None;
                    if told {
                        self.data_over(true, 0);
                    }
                    return;
                }
                Some(Step::Bare(op, range)) => {
                    self.flight = Some(Flight::Step);
                    port.submit(&mut seat.root, Io::bare(op, range), 0);
                }
                Some(Step::Write(offset, bytes)) => {
                    self.flight = Some(Flight::Step);
                    let mut io = Io::write(offset, IoBuf::from_slice(&bytes));
                    io.op = Op::Write { fua: true };
                    port.submit(&mut seat.root, io, 0);
                }
                Some(Step::Save(name, section)) => {
                    self.flight = Some(Flight::Save);
                    let (saved, host) = (Arc::clone(&self.saved), Arc::clone(&self.host));
                    let state = Arc::clone(seat.card.state());
                    state.put(
                        name,
                        section,
                        Box::new(move |result| {
                            let to = if result.is_ok() { saved::DONE } else { saved::FAILED };
                            saved.store(to, SeqCst);
                            host.bell.ring();
                        }),
                    );
                    self.look_at_saved(port);
                }
            }
        }
    }

    /// Whether a section was kept, or could not be.
    pub(super) fn look_at_saved(&mut self, port: &mut Port<'_>) {
        let result = match self.saved.swap(saved::NOTHING, SeqCst) {
            saved::NOTHING => return,
            saved::DONE => Ok(()),
            _ => Err(BlockError::Medium),
        };
        if matches!(self.flight, Some(Flight::Save)) {
            self.flight = None;
            self.step_over(port, result);
        }
    }

    fn step_over(&mut self, port: &mut Port<'_>, result: Result<(), BlockError>) {
        if let Some(seat) = &mut self.seat {
            seat.card.step_done(result);
        }
        if self.is_abandoned() {
            self.finish_waiting();
        }
        self.run_steps(port);
    }
}
