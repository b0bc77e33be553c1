//! Message-signalled interrupts that nobody takes: they are the memory writes that they look like.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use spindle_devices::{Dma, MsiIrq, MsiMessage, MsiSource};

/// Where devices get vectors from. Messages go to guest memory; those to anywhere else are lost.
pub(super) struct Vectors(pub Dma);

impl MsiSource for Vectors {
    fn vectors(&self, count: u16) -> io::Result<Vec<Arc<dyn MsiIrq>>> {
        let vector = |_| {
            let memory = self.0.clone();
            Arc::new(Vector { memory, message: Mutex::default() }) as Arc<dyn MsiIrq>
        };
        Ok((0..count).map(vector).collect())
    }
}

struct Vector {
    memory: Dma,
    message: Mutex<Option<MsiMessage>>,
}

impl MsiIrq for Vector {
    fn raise(&self) {
        let message = *self.message.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(MsiMessage { address, data }) = message else { return };
        if self.memory.write_bytes(address, &data.to_le_bytes()).is_err() {
            ::log::debug!("interrupt message {data:#x} to {address:#x}: no memory there");
        }
    }

    fn configure(&self, message: Option<MsiMessage>) {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = message;
    }
}
