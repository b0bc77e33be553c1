//! Crash tests: a random history on a simulated disk, cut at its writes and flushes. After each cut
//! every byte of the last completed flush or FUA write is there, and every later sector is old or
//! new.

mod history;
mod sectors;

use std::{cell::RefCell, rc::Rc, sync::Arc};

pub use history::{History, Mix, SharedSectors, check_disk, lock, run};
pub use sectors::{Change, SECTOR, Sectors, Value, decode, encode};

use crate::ring::sim::{CrashImage, World};

/// What is done with the images that cuts leave.
pub trait Verify {
    /// Checks what is left. The sectors are those of the moment of the cut.
    ///
    /// # Errors
    /// A sentence about what is wrong.
    fn verify(&mut self, image: &CrashImage, sectors: &SharedSectors) -> Result<(), String>;
}

/// How often a history is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cuts {
    /// Decides what each cut leaves.
    pub seed: u64,
    /// One event in so many is a cut; 1 for all of them.
    pub every: u64,
    /// Images that are made and checked at each cut.
    pub images: u32,
}

/// Runs `body`, which changes the world's files and follows that in `sectors`, and cuts it. Returns
/// the number of images that were checked.
///
/// # Errors
/// A sentence about the first thing that was wrong, in the body or behind a cut.
pub fn cut(
    world: &World,
    sectors: &SharedSectors,
    cuts: Cuts,
    verify: impl Verify + 'static,
    body: impl FnOnce() -> Result<(), String>,
) -> Result<u64, String> {
    let state = Rc::new(RefCell::new(State {
        rng: fastrand::Rng::with_seed(cuts.seed),
        verify,
        checked: 0,
        failed: None,
    }));
    let (observed, at_cut) = (Rc::clone(&state), Arc::clone(sectors));
    let first = world.events();
    world.observe(move |world, event| {
        let mut state = observed.borrow_mut();
        if state.failed.is_some() || !(event.number - first).is_multiple_of(cuts.every) {
            return;
        }
        state.cut(world, &at_cut, cuts.images);
        if let Some(error) = &mut state.failed {
            *error = format!("cut at event {} ({event:?}): {error}", event.number);
            // Nothing that follows matters.
            world.power_off();
        }
    });
    let result = body();
    world.observe(|_, _| ());
    let mut state = state.borrow_mut();
    if let Some(error) = state.failed.take() {
        return Err(error);
    }
    result?;
    state.cut(world, sectors, cuts.images);
    state.failed.take().map_or(Ok(state.checked), |e| Err(format!("cut at the end: {e}")))
}

struct State<V> {
    rng: fastrand::Rng,
    verify: V,
    checked: u64,
    failed: Option<String>,
}

impl<V: Verify> State<V> {
    fn cut(&mut self, world: &World, sectors: &SharedSectors, images: u32) {
        for _ in 0..images {
            let image = world.crash(&mut self.rng);
            self.checked += 1;
            if let Err(error) = self.verify.verify(&image, sectors) {
                self.failed = Some(error);
                return;
            }
        }
    }
}
