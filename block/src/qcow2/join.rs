//! Several futures at once, on one iothread.

use std::{future::Future, pin::Pin, task::Poll};

use crate::BlockError;

/// A piece of work that borrows.
pub(crate) type Work<'a> = Pin<Box<dyn Future<Output = Result<(), BlockError>> + 'a>>;

/// Does all of `work`, at most `width` at a time, to the end; the first error is the answer.
pub(crate) async fn all<'a>(
    work: impl Iterator<Item = Work<'a>>,
    width: usize,
) -> Result<(), BlockError> {
    let mut rest = work.fuse();
    let mut active: Vec<Work<'a>> = Vec::new();
    let mut result = Ok(());
    std::future::poll_fn(move |task| {
        loop {
            let room = width.max(1) - active.len();
            active.extend(rest.by_ref().take(room));
            let before = active.len();
            active.retain_mut(|work| match work.as_mut().poll(task) {
                Poll::Pending => true,
                Poll::Ready(done) => {
                    if result.is_ok() {
                        result = done;
                    }
                    false
                }
            });
            if active.is_empty() && before == 0 {
                return Poll::Ready(result);
            }
            if active.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await
}
