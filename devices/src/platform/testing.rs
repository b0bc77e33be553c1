//! What the tests of these devices share.
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use crate::{Access, LineIrq, PowerRequest, PowerSink, Registers};

/// Remembers requests.
#[derive(Default)]
pub struct Requests(Mutex<Vec<PowerRequest>>);

impl PowerSink for Requests {
    fn request(&self, request: PowerRequest) {
        self.0.lock().unwrap().push(request);
    }
}

impl Requests {
    pub fn take(&self) -> Vec<PowerRequest> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A wire to look at.
#[derive(Clone, Default)]
pub struct Wire(Arc<AtomicBool>);

impl Wire {
    pub fn is_up(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl LineIrq for Wire {
    fn set(&self, level: bool) {
        self.0.store(level, Ordering::SeqCst);
    }
}

pub fn read(device: &impl Registers, offset: u64, width: u8) -> u64 {
    let value = device.read(Access { offset, width });
    if width == 8 { value } else { value & ((1 << (8 * width)) - 1) }
}

pub fn write(device: &impl Registers, offset: u64, width: u8, value: u64) {
    device.write(Access { offset, width }, value);
}
