//! Breakpoints: requests that a `blkdebug` node holds back until they are told to go on.
use super::text::{refuse, say};
use super::{Aio, Failed};
use spindle_block::Cx;
use spindle_block::nodes::fault::debug::Event;
use spindle_block::nodes::fault::{Action, FaultNode, FaultOp, FaultRule};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

/// How often a request is looked for that is to be held back.
const LOOK: Duration = Duration::from_millis(1);

struct Break {
    tag: String,
    /// The rule of the node.
    rule: String,
    /// A request is held back, and that has been said.
    told: Cell<bool>,
}

/// The breakpoints of an image.
#[derive(Default)]
pub(super) struct Breaks {
    node: Option<Arc<FaultNode>>,
    set: RefCell<Vec<Break>>,
    number: Cell<u64>,
}

/// The requests that an event is about, of those that can be held back before they begin.
fn requests(event: &str) -> Result<FaultOp, &'static str> {
    match Event::named(event) {
        Some(Event::ReadAio) => Ok(FaultOp::Read),
        Some(Event::WriteAio | Event::Pwritev) => Ok(FaultOp::Write),
        Some(Event::PwritevZero) => Ok(FaultOp::WriteZeroes),
        Some(Event::FlushToOs | Event::FlushToDisk) => Ok(FaultOp::Flush),
        Some(Event::None | Event::PwritevDone) => Err("Operation not supported"),
        None => Err("No such file or directory"),
    }
}

impl Breaks {
    pub fn new(node: Option<Arc<FaultNode>>) -> Self {
        Self { node, ..Self::default() }
    }

    /// Whether a request is held back at this breakpoint.
    fn holds(&self, rule: &str) -> bool {
        let Some(node) = &self.node else { return false };
        node.query().iter().any(|s| s.rule.id.as_deref() == Some(rule) && s.waiting > 0)
    }

    /// Says which requests are held back since it was last said.
    pub fn tell(&self) {
        for one in self.set.borrow().iter() {
            if !one.told.get() && self.holds(&one.rule) {
                one.told.set(true);
                say(&format!("blkdebug: Suspended request '{}'\n", one.tag));
            }
        }
    }

    pub fn set(&self, event: &str, tag: &str) -> Result<(), Failed> {
        let cannot = |why: &str| refuse(&format!("Could not set breakpoint: {why}"));
        let Some(node) = &self.node else { return cannot("Operation not supported") };
        let op = match requests(event) {
            Ok(op) => op,
            Err(why) => return cannot(why),
        };
        let number = self.number.replace(self.number.get() + 1);
        let rule = FaultRule {
            id: Some(format!("break{number}")),
            op,
            count: Some(1),
            ..FaultRule::new(Action::Hang)
        };
        match node.add(rule) {
            Ok(rule) => {
                let told = Cell::new(false);
                self.set.borrow_mut().push(Break { tag: tag.to_owned(), rule, told });
                Ok(())
            }
            Err(error) => cannot(&error.to_string()),
        }
    }

    pub async fn wait(&self, cx: &Cx, aio: &Aio, tag: &str) -> Result<(), Failed> {
        loop {
            self.tell();
            if self.set.borrow().iter().any(|one| one.tag == tag && one.told.get()) {
                return Ok(());
            }
            if aio.count.get() == 0 {
                return refuse(&format!("No request is on its way to breakpoint {tag}"));
            }
            cx.sleep(LOOK).await;
        }
    }

    /// Takes breakpoints with this tag away, and lets their requests go on.
    fn let_go(&self, tag: &str, held: bool, most: usize) -> usize {
        let mut count = 0;
        self.set.borrow_mut().retain(|one| {
            let meant = one.tag == tag && one.told.get() == held && count < most;
            if meant {
                count += 1;
                if held {
                    say(&format!("blkdebug: Resuming request '{tag}'\n"));
                }
                if let Some(node) = &self.node {
                    // It is there as long as it is in the list.
                    let _ = node.delete(&one.rule);
                }
            }
            !meant
        });
        count
    }

    pub fn resume(&self, tag: &str) -> Result<(), Failed> {
        let cannot = |why: &str| refuse(&format!("Could not resume request: {why}"));
        if self.node.is_none() {
            return cannot("Operation not supported");
        }
        self.tell();
        if self.let_go(tag, true, 1) == 0 {
            return cannot("No such file or directory");
        }
        Ok(())
    }

    pub fn remove(&self, tag: &str) -> Result<(), Failed> {
        let cannot = |why: &str| refuse(&format!("Could not remove breakpoint {tag}: {why}"));
        if self.node.is_none() {
            return cannot("Operation not supported");
        }
        self.tell();
        let removed = self.let_go(tag, false, usize::MAX);
        self.let_go(tag, true, usize::MAX);
        if removed == 0 {
            return cannot("No such file or directory");
        }
        Ok(())
    }

    /// Nothing stays behind when the image is closed.
    pub fn release_all(&self) {
        for one in self.set.take() {
            if let Some(node) = &self.node {
                let _ = node.delete(&one.rule);
            }
        }
    }
}
