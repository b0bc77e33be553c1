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

/// The outcome of so many reads.
fn outcomes(rule: FaultRule, count: usize) -> Vec<bool> {
    let node = fault();
    node.add(rule).expect("added");
    on_ring(async move |cx| {
        let top: Arc<dyn Node> = node;
        let mut outcomes = Vec::new();
        for _ in 0..count {
            outcomes.push(read(&cx, &top, 0, 512).await.is_ok());
        }
        outcomes
    })
}

#[test]
fn chance_follows_its_seed() {
    let rule = |seed| FaultRule { chance_ppm: 300_000, seed, ..fails(BlockError::Medium) };
    let first = outcomes(rule(7), 1000);
    let failed = first.iter().filter(|ok| !**ok).count();
    assert!((240..360).contains(&failed), "{failed} of 1000");
    assert_eq!(outcomes(rule(7), 1000), first);
    assert_ne!(outcomes(rule(8), 1000), first);
    // Those that get away do not count.
    let twice = FaultRule { count: Some(2), ..rule(7) };
    assert_eq!(outcomes(twice, 1000).iter().filter(|ok| !**ok).count(), 2);
    assert!(outcomes(rule(7), 0).is_empty());
}

/// A filter over a file of `len` bytes, all 1; the file.
fn over_file(len: usize) -> (Arc<FaultNode>, tempfile::NamedTempFile) {
    let temp = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(temp.path(), vec![1; len]).expect("written");
    let options = crate::nodes::file::FileOptions::new(temp.path());
    let file = crate::nodes::file::FileNode::open(&options).expect("opened");
    (FaultNode::new(file), temp)
}

#[test]
fn a_torn_write_leaves_its_beginning() {
    let (node, temp) = over_file(64 << 10);
    let bytes = move || std::fs::read(temp.path()).expect("read");
    on_ring(async move |cx| {
        let top: Arc<dyn Node> = Arc::clone(&node) as _;
        let torn = |bytes, error| FaultRule {
            count: Some(1),
            ..FaultRule::new(Action::Torn { bytes, error })
        };
        node.add(torn(Some(1500), Some(BlockError::Gone))).expect("added");
        read(&cx, &top, 0, 512).await.expect("reads do not tear");
        assert_eq!(write(&cx, &top, 4096, &[2; 4096]).await, Err(BlockError::Gone));
        let content = bytes();
        assert!(content[4096..5120].iter().all(|b| *b == 2), "two whole sectors");
        assert!(content[5120..8192].iter().all(|b| *b == 1));

        node.add(torn(None, None)).expect("added");
        assert_eq!(write(&cx, &top, 8192, &[3; 4096]).await, Ok(()), "it is silent");
        let done = bytes()[8192..].iter().take_while(|b| **b == 3).count();
        assert!(done < 4096 && done.is_multiple_of(512), "{done}");

        node.add(torn(Some(u64::MAX), None)).expect("added");
        write(&cx, &top, 16384, &[4; 4096]).await.expect("whole");
        assert!(bytes()[16384..20480].iter().all(|b| *b == 4));
        write(&cx, &top, 20480, &[5; 4096]).await.expect("the rules are spent");
        assert!(bytes()[20480..24576].iter().all(|b| *b == 5));
    });
}

#[test]
fn corruption_changes_one_byte_and_never_the_writers_memory() {
    let (node, temp) = over_file(8192);
    let bytes = move || std::fs::read(temp.path()).expect("read");
    let changed = |bytes: &[u8], was: u8| bytes.iter().filter(|b| **b != was).count();
    on_ring(async move |cx| {
        let top: Arc<dyn Node> = Arc::clone(&node) as _;
        let id = node.add(FaultRule { seed: 3, ..FaultRule::new(Action::Corrupt) }).expect("added");
        let got = read(&cx, &top, 0, 4096).await.expect("read");
        assert_eq!(changed(&got, 1), 1);
        assert_eq!(changed(&bytes(), 1), 0, "only what was read is changed");
        let io = Io::write(4096, crate::IoBuf::from_slice(&[9; 4096]));
        let (io, result) = Arc::clone(&top).run(Cx::clone(&cx), io).await;
        assert_eq!((result, io.buf.to_vec()), (Ok(()), vec![9; 4096]));
        assert_eq!(changed(&bytes()[4096..], 9), 1);
        bare(&cx, &top, Op::Flush, 0, 0).await.expect("there is nothing to corrupt");
        assert_eq!(node.query()[0].hits, 2);
        node.delete(&id).expect("there");
        assert_eq!(changed(&read(&cx, &top, 0, 4096).await.expect("read"), 1), 0);
    });
}

mod blkdebug {
    use super::{
        super::debug::{InjectError, SetState},
        *,
    };

    fn node(rules: Blkdebug) -> Arc<FaultNode> {
        let options = NullOptions { read_zeroes: true, ..NullOptions::default() };
        FaultNode::blkdebug(NullNode::new(options), rules)
    }

    fn inject(event: Event) -> InjectError {
        InjectError {
            event,
            state: 0,
            iotype: None,
            error: Some(BlockError::Medium),
            sector: None,
            once: false,
        }
    }

    fn rules(inject_error: Vec<InjectError>, set_state: Vec<SetState>) -> Blkdebug {
        Blkdebug { inject_error, set_state, limits: Limits::default() }
    }

    #[test]
    fn an_event_arms_an_error_for_what_follows() {
        let node = node(rules(vec![inject(Event::WriteAio)], vec![]));
        assert_eq!(node.driver(), "blkdebug");
        on_ring(async move |cx| {
            let top: Arc<dyn Node> = node;
            read(&cx, &top, 0, 512).await.expect("nothing is armed");
            assert_eq!(write(&cx, &top, 0, &[0; 512]).await, Err(BlockError::Medium));
            assert_eq!(read(&cx, &top, 0, 512).await, Err(BlockError::Medium), "it stays armed");
            assert_eq!(bare(&cx, &top, Op::Discard, 0, 512).await, Err(BlockError::Medium));
            let extent = Arc::clone(&top).extent(Cx::clone(&cx), Range::new(0, 512)).await;
            extent.expect("not meant");
        });
    }

    #[test]
    fn errors_are_for_a_sector_a_kind_a_state_and_once() {
        let sector = InjectError { sector: Some(9), once: true, ..inject(Event::None) };
        let flush = InjectError {
            iotype: Some(IoType::Flush),
            error: Some(BlockError::NoSpace),
            ..inject(Event::None)
        };
        let second = InjectError { state: 2, ..inject(Event::ReadAio) };
        let to_two = SetState { event: Event::FlushToDisk, state: 1, new_state: 2 };
        let node = node(rules(vec![sector, flush, second], vec![to_two]));
        on_ring(async move |cx| {
            let top: Arc<dyn Node> = node;
            read(&cx, &top, 0, 4608).await.expect("sectors 0 to 8");
            assert_eq!(read(&cx, &top, 4096, 1024).await, Err(BlockError::Medium));
            read(&cx, &top, 4096, 1024).await.expect("only once");
            assert_eq!(bare(&cx, &top, Op::Flush, 0, 0).await, Err(BlockError::NoSpace));
            // The flush has changed the state, so the next read arms the error of state 2, which
            // takes the place of the others.
            assert_eq!(read(&cx, &top, 0, 512).await, Err(BlockError::Medium));
            assert_eq!(bare(&cx, &top, Op::Flush, 0, 0).await, Err(BlockError::Medium));
        });
    }

    #[test]
    fn an_error_of_none_lets_pass_and_the_newest_rule_counts() {
        let shield = InjectError {
            error: None,
            iotype: Some(IoType::Read),
            once: true,
            ..inject(Event::None)
        };
        let node = node(rules(vec![inject(Event::None), shield], vec![]));
        on_ring(async move |cx| {
            let top: Arc<dyn Node> = node;
            for _ in 0..3 {
                read(&cx, &top, 0, 512).await.expect("shielded, and not used up");
            }
            assert_eq!(write(&cx, &top, 0, &[0; 512]).await, Err(BlockError::Medium));
        });
    }

    #[test]
    fn requests_without_a_rule_stay_fast_and_both_kinds_of_rules_work() {
        let node = node(rules(vec![inject(Event::FlushToOs)], vec![]));
        let fast = |kind| !matches!(node.map(Lane::new(0), kind, Range::new(0, 512)), Map::Slow);
        assert!(fast(OpKind::Read) && fast(OpKind::Write) && !fast(OpKind::Flush));
        let rule = FaultRule { op: FaultOp::Read, ..fails(BlockError::Gone) };
        node.add(rule).expect("added");
        assert!(!fast(OpKind::Read));
        on_ring({
            let top: Arc<dyn Node> = Arc::clone(&node) as _;
            async move |cx| assert_eq!(read(&cx, &top, 0, 512).await, Err(BlockError::Gone))
        });
        assert_eq!(node.children()[0].0, "image");
    }

    #[test]
    fn limits_show_and_split() {
        let limits = Limits {
            align: Some(4096),
            max_transfer: Some(10_000),
            max_write_zero: Some(4096),
            opt_discard: Some(1 << 20),
            max_discard: Some(8192),
        };
        let counting = fault();
        counting.add(FaultRule { skip: u64::MAX, ..fails(BlockError::Medium) }).expect("added");
        let rules = Blkdebug { limits, ..Blkdebug::default() };
        let top: Arc<dyn Node> = FaultNode::blkdebug(Arc::clone(&counting) as _, rules);
        let info = top.info();
        assert_eq!((info.request_alignment, info.max_transfer), (4096, 8192));
        assert_eq!(info.discard_granularity, 1 << 20);
        on_ring(async move |cx| {
            for (op, parts) in [(Op::Discard, 3), (Op::WriteZeroes { unmap: false, fua: false }, 5)]
            {
                let before = counting.query()[0].matched;
                let io = Io::bare(op, Range::new(0, 20480));
                let (_, result) = Arc::clone(&top).run(Cx::clone(&cx), io).await;
                result.expect("done");
                assert_eq!(counting.query()[0].matched - before, parts, "{op:?}");
            }
        });
    }

    const FILE: &str = "\
# from QEMU's documentation, with events that are there
[inject-error]
event = \"read_aio\"
errno = \"28\"
state = \"2\"
sector = \"12\"
iotype = \"read\"
once = \"on\"
immediately = \"off\"

  [set-state \"a name\"]
event=\"flush_to_disk\"
state = \"1\"
new_state = \"2\"
[inject-error]
event = \"none\"
sector = \"-1\"
errno = \"0\"
";

    #[test]
    fn rule_files_of_qemu_are_read() {
        let mut found = Blkdebug::default();
        config::parse(FILE, &mut found).expect("well formed");
        let first = InjectError {
            state: 2,
            iotype: Some(IoType::Read),
            error: Some(BlockError::NoSpace),
            sector: Some(12),
            once: true,
            ..inject(Event::ReadAio)
        };
        let second = InjectError { error: None, ..inject(Event::None) };
        let state = SetState { event: Event::FlushToDisk, state: 1, new_state: 2 };
        assert_eq!(found, rules(vec![first, second], vec![state]));
    }

    #[test]
    fn what_is_wrong_with_a_rule_file_is_said_with_its_line() {
        for (text, error) in [
            ("event = \"none\"", "line 1: it belongs to no [section]"),
            ("\n[inject]\n", "line 2: 'inject' is neither inject-error nor set-state"),
            ("[inject-error]\nevent = none", "line 2: the value is not in double quotes"),
            ("[inject-error]\nevent", "line 2: it is no key = \"value\""),
            ("[inject-error]\nerrno = \"5\"", "line 1: the rule has no event"),
            ("[set-state]\nevent = \"none\"", "line 1: the rule has no new_state"),
            ("[set-state]\nonce = \"on\"", "line 2: unknown key 'once'"),
            ("[inject-error]\nevent = \"none\"\nerrno = \"x\"", "line 3: 'x' is not a fitting"),
            ("[inject-error]\nevent = \"l2_load\"", "line 2: there is no event 'l2_load' here"),
            ("[inject-error]\nevent = \"none\"\nonce = \"1\"", "line 3: '1' is neither 'on'"),
            ("[inject-error]\nevent = \"none\"\niotype = \"x\"", "line 3: unknown iotype 'x'"),
        ] {
            let found = config::parse(text, &mut Blkdebug::default()).expect_err(text);
            assert!(found.to_string().starts_with(error), "{found}");
        }
        let many = "[inject-error]\nevent = \"none\"\n".repeat(2000);
        let found = config::parse(&many, &mut Blkdebug::default()).expect_err("too many");
        assert!(found.to_string().contains("more than 1024 rules"), "{found}");
    }

    proptest::proptest! {
        #[test]
        fn no_rule_file_panics(text in "(\\[[a-z-]{0,12}\\]|[a-z_]{0,8} ?= ?\"?[a-z0-9_]{0,8}\"?|\n){0,40}") {
            let _ = config::parse(&text, &mut Blkdebug::default());
        }
    }
}
