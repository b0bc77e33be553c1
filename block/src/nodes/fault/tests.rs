use std::time::Instant;

use super::*;
use crate::{
    Op,
    nodes::{
        null::{NullNode, NullOptions},
        testing::{bare, on_ring, read, write},
    },
};

fn fault() -> Arc<FaultNode> {
    FaultNode::new(NullNode::new(NullOptions { read_zeroes: true, ..NullOptions::default() }))
}

fn fails(error: BlockError) -> FaultRule {
    FaultRule::new(Action::Error(error))
}

#[test]
fn a_rule_is_for_its_operations_and_its_range() {
    use OpKind::{Discard, Flush, Read, Write, WriteFua, WriteZeroes};
    let all = [Read, Write, WriteFua, Flush, Discard, WriteZeroes];
    for (op, kinds) in [
        (FaultOp::Any, &all[..]),
        (FaultOp::Read, &[Read]),
        (FaultOp::Write, &[Write, WriteFua]),
        (FaultOp::Flush, &[Flush]),
        (FaultOp::Discard, &[Discard]),
        (FaultOp::WriteZeroes, &[WriteZeroes]),
    ] {
        let rule =
            FaultRule { op, offset: 1000, length: Some(100), ..FaultRule::new(Action::Hang) };
        for kind in all {
            let meant = kinds.contains(&kind);
            for (offset, len, touches) in
                [(0, 1000, false), (0, 1001, true), (1099, 1, true), (1100, 50, false)]
            {
                let covers = rule.covers(kind, Range::new(offset, len));
                let expected = meant && (touches || kind == Flush);
                assert_eq!(covers, expected, "{op:?} {kind:?} {offset}+{len}");
            }
        }
    }
    let to_the_end = FaultRule { offset: 1 << 40, ..FaultRule::new(Action::Hang) };
    assert!(to_the_end.covers(OpKind::Read, Range::new(u64::MAX - 1, 1)));
    assert!(!to_the_end.covers(OpKind::Read, Range::new(0, 1 << 40)));
}

#[test]
fn only_requests_with_a_rule_leave_the_fast_path() {
    let node = fault();
    let lane = Lane::new(0);
    let fast =
        |offset| matches!(node.map(lane, OpKind::Read, Range::new(offset, 512)), Map::Zero { .. });
    assert!(fast(0));
    let rule =
        FaultRule { offset: 4096, length: Some(4096), count: Some(1), ..fails(BlockError::Medium) };
    node.add(rule).expect("added");
    assert!(fast(0) && !fast(4096));
    on_ring({
        let node: Arc<dyn Node> = Arc::clone(&node) as _;
        async move |cx| assert_eq!(read(&cx, &node, 4096, 512).await, Err(BlockError::Medium))
    });
    assert!(fast(4096), "the rule is spent");
    assert!(node.query()[0].spent);
}

#[test]
fn errors_come_after_skip_and_end_after_count() {
    for error in BlockError::ALL {
        let node = fault();
        let rule = FaultRule { op: FaultOp::Write, skip: 2, count: Some(3), ..fails(error) };
        assert_eq!(node.add(rule).expect("added"), "fault0");
        on_ring(async move |cx| {
            let top: Arc<dyn Node> = Arc::clone(&node) as _;
            let mut failed = Vec::new();
            for n in 0..8 {
                read(&cx, &top, 0, 512).await.expect("reads pass");
                match write(&cx, &top, 0, &[1; 512]).await {
                    Ok(()) => {}
                    Err(e) => {
                        assert_eq!(e, error);
                        failed.push(n);
                    }
                }
            }
            assert_eq!(failed, [2, 3, 4]);
            let status = &node.query()[0];
            assert_eq!((status.matched, status.hits, status.spent), (5, 3, true));
        });
    }
}

#[test]
fn the_first_rule_wins_and_names_are_kept_apart() {
    let node = fault();
    let named = |id: &str, error| FaultRule { id: Some(id.to_owned()), ..fails(error) };
    node.add(named("fault0", BlockError::NoSpace)).expect("added");
    assert_eq!(node.add(fails(BlockError::Medium)).expect("added"), "fault1");
    let again = node.add(named("fault0", BlockError::Medium)).expect_err("taken");
    assert_eq!(again.to_string(), "there is a fault rule 'fault0' already; choose another id");
    on_ring(async move |cx| {
        let top: Arc<dyn Node> = Arc::clone(&node) as _;
        assert_eq!(bare(&cx, &top, Op::Flush, 0, 0).await, Err(BlockError::NoSpace));
        node.delete("fault0").expect("there");
        assert_eq!(bare(&cx, &top, Op::Flush, 0, 0).await, Err(BlockError::Medium));
        node.delete("fault1").expect("there");
        assert_eq!(bare(&cx, &top, Op::Flush, 0, 0).await, Ok(()));
        assert_eq!(node.delete("fault1"), Err(FaultError::Unknown("fault1".into())));
        assert_eq!(node.release(Some("x")), Err(FaultError::Unknown("x".into())));
        for _ in 0..RULES_MAX {
            node.add(fails(BlockError::Medium)).expect("room");
        }
        assert_eq!(node.add(fails(BlockError::Medium)), Err(FaultError::TooMany(RULES_MAX)));
    });
}

type Ended = std::rc::Rc<std::cell::Cell<Option<Result<(), BlockError>>>>;

/// Starts a write in a task of its own.
fn start(cx: &Cx, node: &Arc<FaultNode>) -> Ended {
    let ended = Ended::default();
    let (task_cx, node, result) =
        (Cx::clone(cx), Arc::clone(node) as Arc<dyn Node>, Ended::clone(&ended));
    cx.spawn(async move { result.set(Some(write(&task_cx, &node, 0, &[1; 512]).await)) });
    ended
}

async fn settle(cx: &Cx) {
    cx.sleep(Duration::from_millis(5)).await;
}

#[test]
fn hanging_requests_wait_for_release_deletion_or_a_drain() {
    let node = fault();
    on_ring(async move |cx| {
        let id = node.add(FaultRule::new(Action::Hang)).expect("added");
        let (a, b) = (start(&cx, &node), start(&cx, &node));
        settle(&cx).await;
        assert_eq!((a.get(), node.query()[0].waiting), (None, 2));
        assert_eq!(node.release(Some(&id)), Ok(2));
        settle(&cx).await;
        assert_eq!((a.get(), b.get()), (Some(Ok(())), Some(Ok(()))));
        assert_eq!((node.query()[0].waiting, node.release(None)), (0, Ok(0)));

        let c = start(&cx, &node);
        settle(&cx).await;
        node.drain(true);
        node.drain(true);
        node.drain(false);
        settle(&cx).await;
        assert_eq!(c.get(), Some(Err(BlockError::Aborted)));
        let d = start(&cx, &node);
        settle(&cx).await;
        assert_eq!(d.get(), Some(Err(BlockError::Aborted)), "a drain is still on");
        node.drain(false);

        let e = start(&cx, &node);
        settle(&cx).await;
        assert_eq!(e.get(), None);
        node.delete(&id).expect("there");
        settle(&cx).await;
        assert_eq!(e.get(), Some(Ok(())));
    });
}

#[test]
fn delayed_requests_take_their_time_unless_a_drain_is_on() {
    let node = fault();
    on_ring(async move |cx| {
        node.add(FaultRule { count: Some(1), ..FaultRule::new(Action::Delay(30_000_000)) })
            .expect("added");
        node.add(FaultRule::new(Action::Delay(u64::MAX / 4))).expect("added");
        let top: Arc<dyn Node> = Arc::clone(&node) as _;
        let begin = Instant::now();
        write(&cx, &top, 0, &[1; 512]).await.expect("done");
        assert!(begin.elapsed() >= Duration::from_millis(30));
        let long = start(&cx, &node);
        settle(&cx).await;
        assert_eq!(long.get(), None);
        node.drain(true);
        settle(&cx).await;
        assert_eq!(long.get(), Some(Ok(())), "delays end early, without an error");
        node.drain(false);
    });
}

#[test]
fn a_release_from_another_thread_wakes_the_request() {
    let node = fault();
    node.add(FaultRule::new(Action::Hang)).expect("added");
    let outside = Arc::clone(&node);
    let thread = std::thread::spawn(move || {
        while outside.release(None) == Ok(0) {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    on_ring(async move |cx| {
        let top: Arc<dyn Node> = node;
        write(&cx, &top, 0, &[1; 512]).await.expect("released");
    });
    thread.join().expect("thread");
}
