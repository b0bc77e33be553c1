//! An NVMe driver (NVM Express base 2.0, NVM command set 1.0, PCIe transport 1.0).

use std::rc::Rc;

use super::super::Machine;
use crate::pci::Address;

/// A command as sixteen dwords, as wrong as a test wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cmd(pub [u32; 16]);

impl Cmd {
    /// A command with an opcode for a namespace.
    #[must_use]
    pub fn new(opcode: u8, nsid: u32) -> Self {
        let mut cmd = Self::default();
        cmd.0[0] = opcode.into();
        cmd.0[1] = nsid;
        cmd
    }

    /// Sets a command dword.
    #[must_use]
    pub fn dw(mut self, n: usize, value: u32) -> Self {
        self.0[n] = value;
        self
    }

    /// Sets the data pointer: two PRP entries, or the halves of a descriptor.
    #[must_use]
    pub fn data(mut self, first: u64, second: u64) -> Self {
        self.0[6] = first as u32;
        self.0[7] = (first >> 32) as u32;
        self.0[8] = second as u32;
        self.0[9] = (second >> 32) as u32;
        self
    }

    /// Sets FUSE and PSDT.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        self.0[0] |= u32::from(flags) << 8;
        self
    }

    /// Sets logical block and count of a command of the NVM command set.
    #[must_use]
    pub fn blocks(self, lba: u64, count: u32) -> Self {
        let dw12 = self.0[12] | count.wrapping_sub(1) & 0xffff;
        self.dw(10, lba as u32).dw(11, (lba >> 32) as u32).dw(12, dw12)
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cqe {
    /// Dwords 0 and 1.
    pub result: u64,
    /// Submission queue head.
    pub head: u16,
    /// Submission queue.
    pub sq: u16,
    /// Command identifier.
    pub cid: u16,
    /// Status code type and status code: `0x180` is type 1, code 80h.
    pub status: u16,
    /// Do Not Retry.
    pub dnr: bool,
}

/// A submission queue.
#[derive(Clone, Debug)]
pub struct Sq {
    /// Its number.
    pub id: u16,
    /// Guest address.
    pub at: u64,
    /// Entries.
    pub size: u32,
    /// Next entry to fill.
    pub tail: u32,
    next_cid: u16,
}

/// A completion queue.
#[derive(Clone, Debug)]
pub struct Cq {
    /// Its number.
    pub id: u16,
    /// Guest address.
    pub at: u64,
    /// Entries.
    pub size: u32,
    /// Next entry to look at.
    pub head: u32,
    /// Phase tag of new entries.
    pub phase: u16,
}

/// Memory for a transfer.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    /// Guest address.
    pub at: u64,
    /// Length in bytes.
    pub len: usize,
    /// PRP entry 1.
    pub prp1: u64,
    /// PRP entry 2.
    pub prp2: u64,
}

/// A controller as a driver sees it.
pub struct NvmeDriver {
    /// The machine.
    pub machine: Rc<Machine>,
    /// Where the function sits.
    pub address: Address,
    /// Address of the registers.
    pub bar: u64,
    /// The submission queues, the admin queue's first.
    pub sqs: Vec<Sq>,
    /// The completion queues, the admin queue's first.
    pub cqs: Vec<Cq>,
    /// Shadow doorbells and event indexes, once [`NvmeDriver::use_shadows`] was called.
    pub shadows: Option<(u64, u64)>,
    /// Doorbells of submission queues written to the device.
    pub rung: u64,
    table: u64,
    vectors: u64,
    msix: u64,
}

/// Bytes of a page.
const PAGE: u64 = 4096;

impl NvmeDriver {
    /// Looks at the function at `address`, whose BARs have addresses, and switches decoding and bus
    /// mastering on.
    ///
    /// # Panics
    /// When it is no NVMe controller.
    #[must_use]
    pub fn probe(machine: &Rc<Machine>, address: Address) -> Self {
        let read = |at, width| machine.pci_read(address, at, width);
        assert_eq!(read(8, 4) >> 8, 0x01_0802, "class code");
        machine.pci_write(address, 4, 2, 6);
        let low = read(0x10, 4);
        assert_eq!(low & 0xf, 4, "a memory BAR of 64 bits");
        let bar = read(0x14, 4) << 32 | low & !0xf;
        let mut driver = Self {
            machine: Rc::clone(machine),
            address,
            bar,
            sqs: Vec::new(),
            cqs: Vec::new(),
            shadows: None,
            rung: 0,
            table: 0,
            vectors: 0,
            msix: 0,
        };
        let mut at = read(0x34, 1);
        while at != 0 {
            if read(at, 1) == 0x11 {
                driver.msix = at;
                driver.vectors = (read(at + 2, 2) & 0x7ff) + 1;
                driver.table = bar + (read(at + 4, 4) & !7);
            }
            at = read(at + 1, 1);
        }
        driver
    }

    /// Probes, enables with admin queues of 32 entries and MSI-X, and creates `pairs` pairs of I/O
    /// queues of `size` entries, each with the vector of its number.
    ///
    /// # Panics
    /// When the controller refuses.
    #[must_use]
    pub fn new(machine: &Rc<Machine>, address: Address, pairs: u16, size: u32) -> Self {
        let mut driver = Self::probe(machine, address);
        driver.enable_msix();
        driver.enable(32);
        for id in 1..=pairs {
            driver.create_pair(id, size);
        }
        driver
    }

    /// A load from a register.
    #[must_use]
    pub fn get(&self, offset: u64, width: u8) -> u64 {
        self.machine.read(self.bar + offset, width)
    }

    /// A store to a register.
    pub fn set(&self, offset: u64, width: u8, value: u64) {
        self.machine.write(self.bar + offset, width, value);
    }

    /// CSTS.
    #[must_use]
    pub fn status(&self) -> u64 {
        self.get(0x1c, 4)
    }

    /// Disables the controller and waits.
    ///
    /// # Panics
    /// When it never gets there.
    pub fn disable(&mut self) {
        self.set(0x14, 4, self.get(0x14, 4) & !1);
        self.machine.run();
        assert_eq!(self.status() & 1, 0, "the reset never ended");
        self.sqs.clear();
        self.cqs.clear();
        self.shadows = None;
    }

    /// Enables the controller with fresh admin queues, and waits.
    ///
    /// # Panics
    /// When it never gets there.
    pub fn enable(&mut self, entries: u32) {
        self.place_admin(entries);
        self.set(0x14, 4, 0x0046_0001);
        self.machine.turn();
        assert_eq!(self.status() & 3, 1, "not ready");
    }

    /// Makes admin queues and writes the registers that say where they are.
    pub fn place_admin(&mut self, entries: u32) {
        self.sqs = vec![self.new_sq(0, entries)];
        self.cqs = vec![self.new_cq(0, entries)];
        let size = u64::from(entries - 1);
        self.set(0x24, 4, size << 16 | size);
        self.set(0x28, 8, self.sqs[0].at);
        self.set(0x30, 8, self.cqs[0].at);
    }

    /// A submission queue in fresh memory, of which the controller does not know.
    #[must_use]
    pub fn new_sq(&self, id: u16, size: u32) -> Sq {
        let at = self.machine.memory.alloc(u64::from(size) * 64, PAGE);
        Sq { id, at, size, tail: 0, next_cid: 0 }
    }

    /// A completion queue in fresh memory.
    #[must_use]
    pub fn new_cq(&self, id: u16, size: u32) -> Cq {
        let at = self.machine.memory.alloc(u64::from(size) * 16, PAGE);
        Cq { id, at, size, head: 0, phase: 1 }
    }

    /// Create I/O Completion Queue.
    #[must_use]
    pub fn create_cq_cmd(cq: &Cq, vector: u16) -> Cmd {
        Cmd::new(0x05, 0)
            .data(cq.at, 0)
            .dw(10, (cq.size - 1) << 16 | u32::from(cq.id))
            .dw(11, u32::from(vector) << 16 | 3)
    }

    /// Create I/O Submission Queue.
    #[must_use]
    pub fn create_sq_cmd(sq: &Sq, cq: u16) -> Cmd {
        Cmd::new(0x01, 0)
            .data(sq.at, 0)
            .dw(10, (sq.size - 1) << 16 | u32::from(sq.id))
            .dw(11, u32::from(cq) << 16 | 1)
    }

    /// Creates a completion queue.
    ///
    /// # Panics
    /// When the controller refuses.
    pub fn create_cq(&mut self, id: u16, size: u32, vector: u16) {
        let cq = self.new_cq(id, size);
        let cqe = self.admin(Self::create_cq_cmd(&cq, vector));
        assert_eq!(cqe.status, 0, "completion queue {id}");
        self.cqs.push(cq);
    }

    /// Creates a submission queue.
    ///
    /// # Panics
    /// When the controller refuses.
    pub fn create_sq(&mut self, id: u16, size: u32, cq: u16) {
        let sq = self.new_sq(id, size);
        let cqe = self.admin(Self::create_sq_cmd(&sq, cq));
        assert_eq!(cqe.status, 0, "submission queue {id}");
        self.sqs.push(sq);
    }

    /// Creates both, with the vector of the same number.
    ///
    /// # Panics
    /// When the controller refuses.
    pub fn create_pair(&mut self, id: u16, size: u32) {
        self.create_cq(id, size, id);
        self.create_sq(id, size, id);
    }

    /// Switches MSI-X on, with message 100 + n for vector n.
    pub fn enable_msix(&self) {
        self.machine.pci_write(self.address, self.msix + 2, 2, 0x8000);
        for vector in 0..self.vectors {
            self.set_vector(vector, vector as u32 + 100, false);
        }
    }

    /// Writes an entry of the MSI-X table.
    pub fn set_vector(&self, vector: u64, data: u32, masked: bool) {
        let at = self.table + vector * 16;
        self.machine.write(at, 4, 0xfee0_0000);
        self.machine.write(at + 4, 4, 0);
        self.machine.write(at + 8, 4, data.into());
        self.machine.write(at + 12, 4, masked.into());
    }

    /// Doorbell Buffer Config, with fresh pages.
    ///
    /// # Panics
    /// When the controller refuses.
    pub fn use_shadows(&mut self) {
        let pages = (self.machine.memory.alloc(PAGE, PAGE), self.machine.memory.alloc(PAGE, PAGE));
        let cqe = self.admin(Cmd::new(0x7c, 0).data(pages.0, pages.1));
        assert_eq!(cqe.status, 0, "Doorbell Buffer Config");
        self.shadows = Some(pages);
    }

    /// Index of a submission queue.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn sq_index(&self, id: u16) -> usize {
        self.sqs.iter().position(|sq| sq.id == id).expect("a submission queue")
    }

    fn cq_index(&self, id: u16) -> usize {
        self.cqs.iter().position(|cq| cq.id == id).expect("a completion queue")
    }

    /// Fills the next entry of a submission queue, without ringing. Returns the command identifier.
    pub fn submit(&mut self, sq: u16, cmd: Cmd) -> u16 {
        let index = self.sq_index(sq);
        let queue = &mut self.sqs[index];
        let cid = queue.next_cid;
        queue.next_cid = queue.next_cid.wrapping_add(1);
        let mut dwords = cmd.0;
        dwords[0] = dwords[0] & 0xffff | u32::from(cid) << 16;
        let at = queue.at + u64::from(queue.tail) * 64;
        queue.tail = (queue.tail + 1) % queue.size;
        let bytes: Vec<u8> = dwords.iter().flat_map(|dword| dword.to_le_bytes()).collect();
        self.machine.memory.write(at, &bytes);
        cid
    }

    /// Tells the controller of new entries: by the shadow doorbell, and by the real one where the
    /// event index asks for it.
    pub fn ring(&mut self, sq: u16) {
        let tail = self.sqs[self.sq_index(sq)].tail;
        if self.update(u64::from(sq) * 2, sq, tail) {
            self.rung += 1;
            self.ring_with(sq, tail);
        }
    }

    /// Updates a shadow, if queue `id` has one. Returns whether the real doorbell is wanted.
    fn update(&self, index: u64, id: u16, value: u32) -> bool {
        let Some((doorbells, events)) = self.shadows.filter(|_| id != 0) else { return true };
        let memory = &self.machine.memory;
        let old = memory.number(doorbells + index * 4, 4) as u16;
        memory.set_number(doorbells + index * 4, 4, value.into());
        let event = memory.number(events + index * 4, 4) as u16;
        let new = value as u16;
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    /// Writes a submission queue's doorbell.
    pub fn ring_with(&self, sq: u16, tail: u32) {
        self.set(0x1000 + u64::from(sq) * 8, 4, tail.into());
    }

    /// Writes a completion queue's doorbell.
    pub fn ring_head(&self, cq: u16, head: u32) {
        self.set(0x1004 + u64::from(cq) * 8, 4, head.into());
    }

    /// The next completion, without telling the controller.
    pub fn look(&mut self, cq: u16) -> Option<Cqe> {
        let index = self.cq_index(cq);
        let queue = &mut self.cqs[index];
        let at = queue.at + u64::from(queue.head) * 16;
        let memory = &self.machine.memory;
        let word = memory.number(at + 14, 2) as u16;
        if word & 1 != queue.phase {
            return None;
        }
        let cqe = Cqe {
            result: memory.number(at, 8),
            head: memory.number(at + 8, 2) as u16,
            sq: memory.number(at + 10, 2) as u16,
            cid: memory.number(at + 12, 2) as u16,
            status: word >> 1 & 0x7ff,
            dnr: word >> 15 != 0,
        };
        queue.head += 1;
        if queue.head == queue.size {
            queue.head = 0;
            queue.phase ^= 1;
        }
        Some(cqe)
    }

    /// Tells the controller how far completions were consumed.
    pub fn consumed(&self, cq: u16) {
        let head = self.cqs[self.cq_index(cq)].head;
        if self.update(u64::from(cq) * 2 + 1, cq, head) {
            self.ring_head(cq, head);
        }
    }

    /// The next completion.
    pub fn take(&mut self, cq: u16) -> Option<Cqe> {
        let cqe = self.look(cq)?;
        self.consumed(cq);
        Some(cqe)
    }

    /// Does one command on queue `id` (submission and completion) and waits.
    ///
    /// # Panics
    /// When it does not end, or another one does first.
    pub fn run(&mut self, id: u16, cmd: Cmd) -> Cqe {
        let cid = self.submit(id, cmd);
        self.ring(id);
        self.machine.run();
        let cqe = self.take(id).expect("a completion");
        assert_eq!((cqe.cid, cqe.sq), (cid, id), "another command ended first");
        cqe
    }

    /// Does one admin command and waits.
    ///
    /// # Panics
    /// As [`NvmeDriver::run`].
    pub fn admin(&mut self, cmd: Cmd) -> Cqe {
        self.run(0, cmd)
    }

    /// Memory of `len` bytes on pages that lie one after the other, with a PRP list where needed.
    #[must_use]
    pub fn alloc(&self, len: usize) -> Data {
        self.alloc_at(len, 0)
    }

    /// The same, beginning `offset` bytes into its first page.
    #[must_use]
    pub fn alloc_at(&self, len: usize, offset: u64) -> Data {
        let memory = &self.machine.memory;
        let at = memory.alloc((len as u64 + offset).max(1).next_multiple_of(PAGE), PAGE) + offset;
        let rest = (len as u64).saturating_sub(PAGE - offset);
        let second = at - offset + PAGE;
        let prp2 = match rest.div_ceil(PAGE) {
            0 => 0,
            1 => second,
            pages => {
                let list = memory.alloc(pages * 8, PAGE);
                for i in 0..pages {
                    memory.set_number(list + i * 8, 8, second + i * PAGE);
                }
                list
            }
        };
        Data { at, len, prp1: at, prp2 }
    }

    /// An admin command that transfers `len` bytes to the host.
    pub fn admin_read(&mut self, cmd: Cmd, len: usize) -> (Cqe, Vec<u8>) {
        let data = self.alloc(len);
        let cqe = self.admin(cmd.data(data.prp1, data.prp2));
        (cqe, self.machine.memory.read(data.at, len))
    }

    /// An admin command that transfers bytes to the controller.
    pub fn admin_write(&mut self, cmd: Cmd, bytes: &[u8]) -> Cqe {
        let data = self.alloc(bytes.len());
        self.machine.memory.write(data.at, bytes);
        self.admin(cmd.data(data.prp1, data.prp2))
    }

    /// Identify.
    pub fn identify(&mut self, cns: u8, nsid: u32, dw10: u32, dw11: u32) -> (Cqe, Vec<u8>) {
        let cmd = Cmd::new(0x06, nsid).dw(10, dw10 | u32::from(cns)).dw(11, dw11);
        self.admin_read(cmd, 4096)
    }

    /// Get Log Page, all of `len` bytes from the beginning.
    pub fn log(&mut self, id: u8, nsid: u32, len: usize) -> (Cqe, Vec<u8>) {
        let dwords = (len / 4 - 1) as u32;
        let cmd = Cmd::new(0x02, nsid)
            .dw(10, u32::from(id) | (dwords & 0xffff) << 16)
            .dw(11, dwords >> 16);
        self.admin_read(cmd, len)
    }

    /// Reads blocks on queue `id`.
    pub fn read(&mut self, id: u16, nsid: u32, lba: u64, count: u32, len: usize) -> (Cqe, Vec<u8>) {
        let data = self.alloc(len);
        let cmd = Cmd::new(0x02, nsid).data(data.prp1, data.prp2).blocks(lba, count);
        let cqe = self.run(id, cmd);
        (cqe, self.machine.memory.read(data.at, len))
    }

    /// A command of queue `id` that transfers bytes to the controller.
    pub fn send(&mut self, id: u16, cmd: Cmd, bytes: &[u8]) -> Cqe {
        let data = self.alloc(bytes.len());
        self.machine.memory.write(data.at, bytes);
        self.run(id, cmd.data(data.prp1, data.prp2))
    }

    /// Writes blocks on queue `id`.
    pub fn write(&mut self, id: u16, nsid: u32, lba: u64, count: u32, bytes: &[u8]) -> Cqe {
        self.send(id, Cmd::new(0x01, nsid).blocks(lba, count), bytes)
    }
}
