//! `fault`: a filter that makes requests fail, hang, take their time, tear or corrupt data.
//!
//! Without a rule that is for a request, the node costs one atomic look: it passes the child's
//! translation through. Rules come and go while requests run. Under QEMU's name for such
//! a filter, `blkdebug`, it also takes QEMU's rules ([`debug`]).

pub mod config;
pub mod debug;
mod harm;
mod random;
mod rule;

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::{Poll, Waker},
    time::Duration,
};

use crate::{BlockError, Cx, Extent, Info, Io, Lane, LocalBoxFuture, Map, Node, OpKind, Range};
pub use debug::{Blkdebug, IoType, Limits};
use debug::{Debug, Event};
use harm::Harm;
use random::Random;
pub use rule::{ALWAYS, Action, FaultError, FaultOp, FaultRule, FaultStatus};

/// Most rules of one node: each is looked at for every request.
const RULES_MAX: usize = 256;

struct Live {
    id: String,
    rule: FaultRule,
    /// Matches still to let pass.
    skip: u64,
    /// Actions left.
    left: Option<u64>,
    /// Requests it was for, while it was in force.
    matched: u64,
    hits: u64,
    random: Random,
}

/// What becomes of a request that a rule acts on.
struct Sentence {
    rule: String,
    action: Action,
    /// What is left to chance about it.
    luck: u64,
}

/// A request that waits.
struct Waiter {
    number: u64,
    rule: String,
    released: bool,
    waker: Option<Waker>,
}

#[derive(Default)]
struct State {
    rules: Vec<Live>,
    waiters: Vec<Waiter>,
    next_waiter: u64,
    next_id: u64,
    /// How many drains are on.
    drains: u32,
}

impl State {
    /// The first rule that acts on a request, and how; it is counted.
    fn judge(&mut self, kind: OpKind, range: Range) -> Option<Sentence> {
        for live in &mut self.rules {
            if live.left == Some(0) || !live.rule.covers(kind, range) {
                continue;
            }
            live.matched += 1;
            if live.skip > 0 {
                live.skip -= 1;
                continue;
            }
            if live.rule.chance_ppm < ALWAYS
                && live.random.below(ALWAYS.into()) >= live.rule.chance_ppm.into()
            {
                continue;
            }
            live.left = live.left.map(|left| left - 1);
            live.hits += 1;
            let luck = live.random.next();
            return Some(Sentence { rule: live.id.clone(), action: live.rule.action, luck });
        }
        None
    }

    fn armed(&self) -> u32 {
        self.rules.iter().filter(|live| live.left != Some(0)).count() as u32
    }

    /// Lets those go that wait for a rule, or for any; their wakers come back.
    fn release(&mut self, rule: Option<&str>) -> Vec<Waker> {
        let meant = |waiter: &&mut Waiter| rule.is_none_or(|id| waiter.rule == id);
        let waiters = self.waiters.iter_mut().filter(meant);
        waiters
            .filter_map(|waiter| {
                waiter.released = true;
                waiter.waker.take()
            })
            .collect()
    }
}

/// See the module.
pub struct FaultNode {
    child: Arc<dyn Node>,
    state: Mutex<State>,
    /// Rules that can still act.
    armed: AtomicU32,
    /// The rules of `blkdebug`, and its limits.
    debug: Option<(Mutex<Debug>, Limits)>,
}

impl FaultNode {
    /// A filter above `child`, with no rules.
    #[must_use]
    pub fn new(child: Arc<dyn Node>) -> Arc<Self> {
        let armed = AtomicU32::new(0);
        Arc::new(Self { child, state: Mutex::default(), armed, debug: None })
    }

    /// The filter as `blkdebug`, with rules of that kind.
    #[must_use]
    pub fn blkdebug(child: Arc<dyn Node>, blkdebug: Blkdebug) -> Arc<Self> {
        let limits = blkdebug.limits;
        let debug = Some((Mutex::new(Debug::new(blkdebug)), limits));
        let armed = AtomicU32::new(0);
        Arc::new(Self { child, state: Mutex::default(), armed, debug })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule, behind those there are, and returns its name. Requests that are translated from
    /// now on are subject to it.
    ///
    /// # Errors
    /// When the name is taken or there are too many rules.
    pub fn add(&self, rule: FaultRule) -> Result<String, FaultError> {
        let mut state = self.lock();
        if state.rules.len() >= RULES_MAX {
            return Err(FaultError::TooMany(RULES_MAX));
        }
        let taken = |state: &State, id: &str| state.rules.iter().any(|live| live.id == id);
        let id = match &rule.id {
            Some(id) if taken(&state, id) => return Err(FaultError::Duplicate(id.clone())),
            Some(id) => id.clone(),
            None => loop {
                let id = format!("fault{}", state.next_id);
                state.next_id += 1;
                if !taken(&state, &id) {
                    break id;
                }
            },
        };
        let (skip, left) = (rule.skip, rule.count);
        let random = Random::new(rule.seed);
        state.rules.push(Live { id: id.clone(), rule, skip, left, matched: 0, hits: 0, random });
        self.armed.store(state.armed(), SeqCst);
        Ok(id)
    }

    /// Deletes a rule; requests that wait because of it go on.
    ///
    /// # Errors
    /// When there is no such rule.
    pub fn delete(&self, id: &str) -> Result<(), FaultError> {
        let wakers = {
            let mut state = self.lock();
            let at = state.rules.iter().position(|live| live.id == id);
            let at = at.ok_or_else(|| FaultError::Unknown(id.to_owned()))?;
            state.rules.remove(at);
            self.armed.store(state.armed(), SeqCst);
            state.release(Some(id))
        };
        wakers.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Lets requests go on that wait because of rule `id` (or of any); the rule stays in force.
    /// Returns how many there were.
    ///
    /// # Errors
    /// When there is no such rule.
    pub fn release(&self, id: Option<&str>) -> Result<u64, FaultError> {
        let (count, wakers) = {
            let mut state = self.lock();
            if let Some(id) = id
                && !state.rules.iter().any(|live| live.id == id)
            {
                return Err(FaultError::Unknown(id.to_owned()));
            }
            let meant = |w: &&Waiter| !w.released && id.is_none_or(|id| w.rule == id);
            (state.waiters.iter().filter(meant).count() as u64, state.release(id))
        };
        wakers.into_iter().for_each(Waker::wake);
        Ok(count)
    }

    /// The rules in force, in the order in which they are looked at.
    #[must_use]
    pub fn query(&self) -> Vec<FaultStatus> {
        let state = self.lock();
        let status = |live: &Live| FaultStatus {
            rule: FaultRule { id: Some(live.id.clone()), ..live.rule.clone() },
            matched: live.matched,
            hits: live.hits,
            waiting: state.waiters.iter().filter(|w| !w.released && w.rule == live.id).count()
                as u64,
            spent: live.left == Some(0),
        };
        state.rules.iter().map(status).collect()
    }

    /// What has to happen to a request before it goes on to the child.
    async fn suffer(&self, cx: &Cx, kind: OpKind, range: Range) -> Result<Harm, BlockError> {
        let (waiting, time) = {
            let mut state = self.lock();
            let Some(sentence) = state.judge(kind, range) else { return Ok(Harm::None) };
            self.armed.store(state.armed(), SeqCst);
            let Sentence { rule, action, luck } = sentence;
            let time = match action {
                Action::Error(error) => return Err(error),
                Action::Torn { bytes, error } => return Ok(Harm::Torn { bytes, error, luck }),
                Action::Corrupt => return Ok(Harm::Corrupt { luck }),
                Action::Delay(ns) => Some(Duration::from_nanos(ns)),
                Action::Hang => None,
            };
            let number = state.next_waiter;
            state.next_waiter += 1;
            state.waiters.push(Waiter { number, rule, released: false, waker: None });
            (Waiting { node: self, number }, time)
        };
        match time {
            None => poll_fn(|task| waiting.poll(task.waker(), Err(BlockError::Aborted))).await,
            Some(time) => {
                let mut sleep = pin!(cx.sleep(time));
                poll_fn(|task| match sleep.as_mut().poll(task) {
                    Poll::Ready(()) => Poll::Ready(Ok(())),
                    Poll::Pending => waiting.poll(task.waker(), Ok(())),
                })
                .await
            }
        }
        .map(|()| Harm::None)
    }

    /// Tells the rules of `blkdebug` of events, in order.
    fn note(&self, events: &[Event]) {
        if let Some((debug, _)) = &self.debug {
            let mut debug = debug.lock().unwrap_or_else(PoisonError::into_inner);
            events.iter().for_each(|event| debug.event(*event));
        }
    }

    /// Whether a rule of `blkdebug` makes a request fail.
    fn check(&self, kind: IoType, range: Range) -> Result<(), BlockError> {
        match &self.debug {
            Some((debug, _)) => {
                debug.lock().unwrap_or_else(PoisonError::into_inner).check(kind, range)
            }
            None => Ok(()),
        }
    }

    /// Whether requests of this kind have to be seen for the sake of `blkdebug`.
    fn watches(&self, kind: OpKind) -> bool {
        self.debug.as_ref().is_some_and(|(debug, _)| {
            debug.lock().unwrap_or_else(PoisonError::into_inner).watches(kind)
        })
    }
}

/// The place of a request among those that wait; given up with it.
struct Waiting<'a> {
    node: &'a FaultNode,
    number: u64,
}

impl Waiting<'_> {
    /// Ready when released, or with `drained` while a drain is on.
    fn poll(&self, waker: &Waker, drained: Result<(), BlockError>) -> Poll<Result<(), BlockError>> {
        let mut state = self.node.lock();
        if state.drains > 0 {
            return Poll::Ready(drained);
        }
        match state.waiters.iter_mut().find(|w| w.number == self.number) {
            Some(waiter) if !waiter.released => {
                waiter.waker = Some(waker.clone());
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.node.lock().waiters.retain(|w| w.number != self.number);
    }
}

impl Node for FaultNode {
    fn driver(&self) -> &'static str {
        if self.debug.is_some() { "blkdebug" } else { "fault" }
    }

    fn info(&self) -> Info {
        let info = self.child.info();
        self.debug.as_ref().map_or(info, |(_, limits)| limits.apply(info))
    }

    fn map(&self, lane: Lane, op: OpKind, range: Range) -> Map {
        if self.armed.load(SeqCst) > 0 {
            let state = self.lock();
            if state.rules.iter().any(|l| l.left != Some(0) && l.rule.covers(op, range)) {
                return Map::Slow;
            }
        }
        if self.watches(op) {
            return Map::Slow;
        }
        self.child.map(lane, op, range)
    }

    fn run(
        self: Arc<Self>,
        cx: Cx,
        io: Io,
    ) -> LocalBoxFuture<'static, (Io, Result<(), BlockError>)> {
        Box::pin(async move {
            let kind = io.op.kind();
            self.note(debug::before(kind));
            if let Err(error) = self.check(kind.into(), io.range) {
                return (io, Err(error));
            }
            let (io, result) = match self.suffer(&cx, kind, io.range).await {
                Ok(harm) => self.harm(&cx, io, harm).await,
                Err(error) => (io, Err(error)),
            };
            self.note(debug::after(kind));
            (io, result)
        })
    }

    fn extent(
        self: Arc<Self>,
        cx: Cx,
        range: Range,
    ) -> LocalBoxFuture<'static, Result<Extent, BlockError>> {
        if let Err(error) = self.check(IoType::BlockStatus, range) {
            return Box::pin(async move { Err(error) });
        }
        Arc::clone(&self.child).extent(cx, range)
    }

    fn resize(
        self: Arc<Self>,
        cx: Cx,
        size: u64,
    ) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Arc::clone(&self.child).resize(cx, size)
    }

    fn drain(&self, on: bool) {
        let wakers: Vec<_> = {
            let mut state = self.lock();
            state.drains =
                if on { state.drains.saturating_add(1) } else { state.drains.saturating_sub(1) };
            state.waiters.iter_mut().filter_map(|w| w.waker.take()).collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn close(self: Arc<Self>, _cx: Cx) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async { Ok(()) })
    }

    fn children(&self) -> Vec<(&'static str, Arc<dyn Node>)> {
        let role = if self.debug.is_some() { "image" } else { "file" };
        vec![(role, Arc::clone(&self.child))]
    }
}

#[cfg(test)]
mod tests;
