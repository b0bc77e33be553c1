//! Counters at every branch, where the program was compiled with them
//! (`-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-inline-8bit-counters`): each module of the
//! program announces its own before `main`.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU8, Ordering::Relaxed},
};

static COUNTERS: Mutex<Vec<&'static [AtomicU8]>> = Mutex::new(Vec::new());

/// Called by what the compiler adds to each module, with its counters.
///
/// # Safety
/// `start..stop` are counters that live as long as the program.
#[unsafe(no_mangle)]
unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(
    start: *const AtomicU8,
    stop: *const AtomicU8,
) {
    let len = (stop as usize).saturating_sub(start as usize);
    if start.is_null() || len == 0 {
        return;
    }
    // SAFETY: the caller's promise. The program counts without atomic operations, but on bytes of
    // their own, which x86 loads and stores whole.
    let counters = unsafe { std::slice::from_raw_parts(start, len) };
    COUNTERS.lock().unwrap_or_else(PoisonError::into_inner).push(counters);
}

/// What was reached so far, by counter: a bit for each order of magnitude.
#[derive(Default)]
pub(crate) struct Reached(Vec<u8>);

impl Reached {
    /// Whether the program has counters.
    pub fn is_guided() -> bool {
        !COUNTERS.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Sets all counters to zero.
    pub fn begin() {
        let all = COUNTERS.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().copied().flatten().for_each(|counter| counter.store(0, Relaxed));
    }

    /// Takes what was reached since; returns whether any of it is new.
    pub fn end(&mut self) -> bool {
        let all = COUNTERS.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.resize(all.iter().map(|counters| counters.len()).sum(), 0);
        let mut new = false;
        for (counter, seen) in all.iter().copied().flatten().zip(&mut self.0) {
            let count = counter.load(Relaxed);
            if count == 0 {
                continue;
            }
            let bit = 1u8 << count.ilog2();
            new |= *seen & bit == 0;
            *seen |= bit;
        }
        new
    }

    /// How many counters were reached.
    pub fn count(&self) -> usize {
        self.0.iter().filter(|seen| **seen != 0).count()
    }
}
