//! The I/O queues that the host has created, and the commands that do it (Base 5.4 to 5.7).

use crate::nvme::{
    config::IO_QUEUES_MAX, controller::Ctl, rings::Place, spec::Sqe, status::Status,
};

const TABLE: usize = IO_QUEUES_MAX as usize + 1;

/// Which queues there are.
pub struct Queues {
    /// Completion queues.
    cqs: [bool; TABLE],
    /// The submission queues.
    sqs: [Option<SqState>; TABLE],
}

/// A submission queue that there is.
#[derive(Clone, Copy, Debug)]
struct SqState {
    /// The completion queue that it posts to.
    cq: u16,
    /// It is being deleted.
    deleting: bool,
}

/// A completion queue to be created.
#[derive(Clone, Copy, Debug)]
pub struct CreateCq {
    /// Where it lies.
    pub place: Place,
    /// Interrupts are wanted.
    pub interrupts: bool,
    /// The vector.
    pub vector: u16,
}

/// A submission queue to be created.
#[derive(Clone, Copy, Debug)]
pub struct CreateSq {
    /// Where it lies.
    pub place: Place,
    /// The completion queue that it posts to.
    pub cq: u16,
    /// Priority class: 0 urgent, 1 high, 2 medium, 3 low.
    pub priority: u8,
}

/// What creating needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Submission and completion queues that the host may create.
    pub queues: (u16, u16),
    /// Entry sizes in CC, as powers of two.
    pub entry_sizes: (u32, u32),
}

impl Queues {
    /// No queues.
    #[must_use]
    pub fn new() -> Self {
        Self { cqs: [false; TABLE], sqs: [None; TABLE] }
    }

    /// Whether there are any.
    #[must_use]
    pub fn any(&self) -> bool {
        self.cqs.iter().any(|there| *there)
    }

    /// The completion queue of a submission queue that there is.
    #[must_use]
    pub fn cq_of(&self, sq: u16) -> Option<u16> {
        self.sqs.get(usize::from(sq))?.map(|sq| sq.cq)
    }

    /// Completion queues that there are.
    pub fn cqs(&self) -> impl Iterator<Item = u16> {
        (1..TABLE as u16).filter(|id| self.cqs[usize::from(*id)])
    }

    fn place(ctl: &Ctl, sqe: &Sqe) -> Result<Place, Status> {
        let (id, entries) = (sqe.dword::<10>() as u16, (sqe.dword::<10>() >> 16) + 1);
        if entries < 2 || entries > ctl.config().max_entries {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        // Physically contiguous queues only (CAP.CQR).
        if sqe.dword::<11>() & 1 == 0 {
            return Err(Status::INVALID_FIELD);
        }
        let address = sqe.dptr[0].get();
        if address & (ctl.page() - 1) != 0 {
            return Err(Status::PRP_OFFSET);
        }
        Ok(Place { id, address, entries })
    }

    /// Create I/O Completion Queue.
    ///
    /// # Errors
    /// The status of a command that makes no sense.
    pub fn parse_cq(&self, ctl: &Ctl, sqe: &Sqe, bounds: Bounds) -> Result<CreateCq, Status> {
        let id = sqe.dword::<10>() as u16;
        if id == 0 || id > bounds.queues.1 || self.cqs[usize::from(id)] {
            return Err(Status::INVALID_QID);
        }
        if bounds.entry_sizes.1 != 4 {
            return Err(Status::INVALID_FIELD);
        }
        let place = Self::place(ctl, sqe)?;
        let (interrupts, vector) = (sqe.dword::<11>() & 2 != 0, (sqe.dword::<11>() >> 16) as u16);
        if interrupts && vector >= ctl.vectors() {
            return Err(Status::INVALID_VECTOR);
        }
        Ok(CreateCq { place, interrupts, vector })
    }

    /// Create I/O Submission Queue.
    ///
    /// # Errors
    /// The status of a command that makes no sense.
    pub fn parse_sq(&self, ctl: &Ctl, sqe: &Sqe, bounds: Bounds) -> Result<CreateSq, Status> {
        let id = sqe.dword::<10>() as u16;
        if id == 0 || id > bounds.queues.0 || self.sqs[usize::from(id)].is_some() {
            return Err(Status::INVALID_QID);
        }
        if bounds.entry_sizes.0 != 6 {
            return Err(Status::INVALID_FIELD);
        }
        let place = Self::place(ctl, sqe)?;
        let cq = (sqe.dword::<11>() >> 16) as u16;
        if cq == 0 || cq > bounds.queues.1 {
            return Err(Status::INVALID_QID);
        }
        if !self.cqs[usize::from(cq)] {
            return Err(Status::INVALID_CQ);
        }
        Ok(CreateSq { place, cq, priority: (sqe.dword::<11>() >> 1 & 3) as u8 })
    }

    /// There is a completion queue now.
    pub fn add_cq(&mut self, id: u16) {
        self.cqs[usize::from(id)] = true;
    }

    /// There is a submission queue now.
    pub fn add_sq(&mut self, id: u16, cq: u16) {
        self.sqs[usize::from(id)] = Some(SqState { cq, deleting: false });
    }

    /// Delete I/O Submission Queue: returns it and its completion queue. It is there until
    /// [`Queues::remove_sq`].
    ///
    /// # Errors
    /// When there is none.
    pub fn delete_sq(&mut self, sqe: &Sqe) -> Result<(u16, u16), Status> {
        let id = sqe.dword::<10>() as u16;
        match self.sqs.get_mut(usize::from(id)) {
            Some(Some(sq)) if !sq.deleting => {
                sq.deleting = true;
                Ok((id, sq.cq))
            }
            _ => Err(Status::INVALID_QID),
        }
    }

    /// A submission queue is gone.
    pub fn remove_sq(&mut self, id: u16) {
        self.sqs[usize::from(id)] = None;
    }

    /// Delete I/O Completion Queue: it is there until [`Queues::remove_cq`].
    ///
    /// # Errors
    /// When there is none, or submission queues still post to it.
    pub fn delete_cq(&mut self, sqe: &Sqe) -> Result<u16, Status> {
        let id = sqe.dword::<10>() as u16;
        if id == 0 || !self.cqs.get(usize::from(id)).is_some_and(|there| *there) {
            return Err(Status::INVALID_QID);
        }
        if self.sqs.iter().flatten().any(|sq| sq.cq == id) {
            return Err(Status::INVALID_QUEUE_DELETION);
        }
        Ok(id)
    }

    /// A completion queue is gone.
    pub fn remove_cq(&mut self, id: u16) {
        self.cqs[usize::from(id)] = false;
    }
}
