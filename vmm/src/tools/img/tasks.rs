//! Several tasks on one ring: running them to the end, and letting them take turns.
use spindle_block::Cx;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
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
