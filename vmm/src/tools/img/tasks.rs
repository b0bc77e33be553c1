//! Several tasks on one ring: running them to the end, and letting them take turns.
use spindle_block::Cx;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

/// Lets tasks pass in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Turns {
    serving: Cell<u64>,
    waiting: RefCell<Vec<(u64, Waker)>>,
}

impl Turns {
    /// Waits for the turn of `number`.
    pub async fn wait_for(&self, number: u64) {
        std::future::poll_fn(|task| {
            if self.serving.get() == number {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            waiting.retain(|(of, _)| *of != number);
            waiting.push((number, task.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// It is the next one's turn.
    pub fn pass(&self) {
        let next = self.serving.get() + 1;
        self.serving.set(next);
        let mut waiting = self.waiting.borrow_mut();
        if let Some(at) = waiting.iter().position(|(of, _)| *of == next) {
            let (_, waker) = waiting.swap_remove(at);
            drop(waiting);
            waker.wake();
        }
    }

    /// Runs `future`, and passes the turn on as soon as it has begun: what it does first, such as
    /// taking space, happens in the order of turns, and the rest side by side.
    pub async fn begin<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let mut passed = false;
        std::future::poll_fn(move |task| {
            let result = future.as_mut().poll(task);
            if !std::mem::replace(&mut passed, true) {
                self.pass();
            }
            result
        })
        .await
    }
}

/// What the tasks of [`all`] share.
struct Gathered<T> {
    left: usize,
    results: Vec<T>,
    waker: Option<Waker>,
}

/// Runs tasks side by side to their end. Results come in the order in which the tasks end.
pub(super) async fn all<T: 'static>(
    cx: &Cx,
    tasks: Vec<impl Future<Output = T> + 'static>,
) -> Vec<T> {
    let gathered =
        Rc::new(RefCell::new(Gathered { left: tasks.len(), results: Vec::new(), waker: None }));
    for task in tasks {
        let gathered = Rc::clone(&gathered);
        cx.spawn(async move {
            let result = task.await;
            let mut gathered = gathered.borrow_mut();
            gathered.left -= 1;
            gathered.results.push(result);
            if let Some(waker) = gathered.waker.take() {
                waker.wake();
            }
        });
    }
    std::future::poll_fn(|task| {
        let mut gathered = gathered.borrow_mut();
        if gathered.left > 0 {
            gathered.waker = Some(task.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(std::mem::take(&mut gathered.results))
    })
    .await
}

/// Where one thread leaves something for a task of another.
struct Slot<T> {
    value: Option<T>,
    /// Nothing more will come.
    closed: bool,
    waker: Option<Waker>,
}

/// The end that tells.
pub(super) struct Tell<T>(Arc<Mutex<Slot<T>>>);

impl<T> Tell<T> {
    /// Leaves the value.
    pub fn tell(self, value: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).value = Some(value);
    }
}

impl<T> Drop for Tell<T> {
    fn drop(&mut self) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.closed = true;
        if let Some(waker) = slot.waker.take() {
            drop(slot);
            waker.wake();
        }
    }
}

/// A value that another thread will tell; `None` where it gave up.
pub(super) fn later<T>() -> (Tell<T>, impl Future<Output = Option<T>>) {
    let slot = Arc::new(Mutex::new(Slot { value: None, closed: false, waker: None }));
    let there = Arc::clone(&slot);
    let told = std::future::poll_fn(move |task| {
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.value.is_some() || slot.closed {
            return Poll::Ready(slot.value.take());
        }
        slot.waker = Some(task.waker().clone());
        Poll::Pending
    });
    (Tell(there), told)
}
