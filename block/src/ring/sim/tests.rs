use std::cell::{Cell, RefCell};

use super::*;
use crate::{Pin, file::FileId};

const WRITE: FileOp = FileOp::Write { fua: false };

async fn op(cx: &Cx, op: FileOp, file: FileId, at: u64, len: u64) -> Result<(), BlockError> {
    let buf = match op {
        FileOp::Read => IoBuf::zeroed(len as usize),
        FileOp::Write { .. } => IoBuf::from_slice(&vec![at as u8 + 1; len as usize]),
        _ => IoBuf::empty(),
    };
    cx.file_op(op, file, (at, len), buf, Pin::NONE).await.1
}

/// Eight writes at once from two iothreads; returns the order in which they ended.
fn race(seed: u64) -> (Vec<u64>, u64, Vec<u8>) {
    let world = World::new(seed);
    let file = world.create_file("disk", &[], 1 << 16);
    let cxs = [world.iothread("a").expect("a"), world.iothread("b").expect("b")];
    let order = Rc::new(RefCell::new(Vec::new()));
    for n in 0..8 {
        let cx = &cxs[n as usize % 2];
        let (task_cx, id, order) = (Cx::clone(cx), file.id(), Rc::clone(&order));
        cx.spawn(async move {
            op(&task_cx, WRITE, id, n * 4096, 4096).await.expect("write");
            order.borrow_mut().push(n);
        });
    }
    world.run_until_idle(&cxs);
    let crash = world.crash(&mut fastrand::Rng::with_seed(seed));
    let bytes = crash.file("disk").expect("the file").to_vec();
    let order = order.borrow().clone();
    (order, world.events(), bytes)
}

#[test]
fn a_seed_decides_the_order_and_different_seeds_decide_differently() {
    let first = race(1);
    assert_eq!(first, race(1));
    // Submission and completion of each write.
    assert_eq!(first.1, 16);
    let orders: std::collections::HashSet<_> = (0..20).map(|seed| race(seed).0).collect();
    assert!(orders.len() > 10, "{} orders", orders.len());
}

#[test]
fn nothing_completes_before_the_world_steps() {
    let world = World::new(3);
    let file = world.create_file("disk", &[], 4096);
    let cx = world.iothread("a").expect("iothread");
    let (task_cx, id) = (Cx::clone(&cx), file.id());
    cx.spawn(async move { op(&task_cx, WRITE, id, 0, 512).await.expect("write") });
    for _ in 0..10 {
        cx.turn();
        cx.kick();
    }
    assert_eq!((cx.tasks(), world.in_flight(), cx.ring_in_flight()), (1, 1, 1));
    assert!(world.contents(&file) == Image::new(4096));
    assert!(world.step() && !world.step());
    cx.turn();
    cx.turn();
    assert_eq!((cx.tasks(), cx.ring_in_flight()), (0, 0));
    assert_eq!(world.contents(&file).to_vec()[..512], [1; 512]);
    assert!(world.durable(&file) == Image::new(4096));
}

#[test]
fn sleeping_tasks_wake_in_virtual_time() {
    let world = World::new(4);
    let cx = world.iothread("a").expect("iothread");
    let start = cx.now();
    let woken = Rc::new(Cell::new(None));
    let (task_cx, task_woken) = (Cx::clone(&cx), Rc::clone(&woken));
    cx.spawn(async move {
        task_cx.sleep(Duration::from_secs(3600)).await;
        task_woken.set(Some(task_cx.now()));
    });
    world.run_until_idle(std::slice::from_ref(&cx));
    assert_eq!(woken.get().map(|at| at - start), Some(Duration::from_secs(3600)));
    // The same when one iothread drives itself.
    let task_cx = Cx::clone(&cx);
    cx.block_on(async move { task_cx.sleep(Duration::from_secs(60)).await });
    assert_eq!(cx.now() - start, Duration::from_secs(3660));
}

#[test]
fn faults_meet_the_requests_they_name_and_no_other() {
    let world = World::new(5);
    let (one, two) = (world.create_file("one", &[], 8192), world.create_file("two", &[], 8192));
    let cx = world.iothread("a").expect("iothread");
    let no_space = FaultAction::Fail(BlockError::NoSpace);
    world.add_fault(Fault {
        file: Some(one.id()),
        range: 4096..8192,
        skip: 1,
        count: 2,
        ..Fault::new(FaultOp::Write, no_space)
    });
    let (task_cx, one, two) = (Cx::clone(&cx), one.id(), two.id());
    cx.block_on(async move {
        let cx = &task_cx;
        assert_eq!(op(cx, WRITE, one, 0, 4096).await, Ok(()));
        assert_eq!(op(cx, WRITE, two, 4096, 512).await, Ok(()));
        assert_eq!(op(cx, FileOp::Read, one, 4096, 512).await, Ok(()));
        assert_eq!(op(cx, FileOp::Sync, one, 0, 0).await, Ok(()));
        for expected in [Ok(()), Err(BlockError::NoSpace), Err(BlockError::NoSpace), Ok(())] {
            assert_eq!(op(cx, WRITE, one, 4000, 200).await, expected);
        }
    });
    let delay = Fault::new(FaultOp::Sync, FaultAction::Delay(Duration::from_secs(5)));
    let number = world.add_fault(delay);
    let (task_cx, start) = (Cx::clone(&cx), cx.now());
    cx.block_on(async move { op(&task_cx, FileOp::Sync, two, 0, 0).await }).expect("sync");
    assert!(cx.now() - start >= Duration::from_secs(5));
    world.remove_fault(number);
    let (task_cx, start) = (Cx::clone(&cx), cx.now());
    cx.block_on(async move { op(&task_cx, FileOp::Sync, two, 0, 0).await }).expect("sync");
    assert!(cx.now() - start < Duration::from_secs(1));
}

#[test]
fn a_write_that_fails_may_leave_its_first_sectors() {
    let lengths: std::collections::HashSet<u64> = (0..60)
        .map(|seed| {
            let world = World::new(seed);
            let file = world.create_file("disk", &[], 0);
            let cx = world.iothread("a").expect("iothread");
            let part = FaultAction::FailAfterPart(BlockError::NoSpace);
            world.add_fault(Fault::new(FaultOp::Write, part));
            let (task_cx, id) = (Cx::clone(&cx), file.id());
            let result = cx.block_on(async move { op(&task_cx, WRITE, id, 0, 2048).await });
            assert_eq!(result, Err(BlockError::NoSpace));
            world.contents(&file).len()
        })
        .collect();
    assert_eq!(lengths, (0..=4).map(|n| n * 512).collect());
}

#[test]
fn the_observer_sees_every_event_and_may_cut_there() {
    let world = World::new(6);
    let file = world.create_file("disk", &[], 4096);
    let cx = world.iothread("a").expect("iothread");
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&seen);
    let mut rng = fastrand::Rng::with_seed(6);
    world.observe(move |world, event| {
        let all_there = (0..50).all(|_| {
            world.crash(&mut rng).file("disk").expect("the file").to_vec()[..512] == [1; 512]
        });
        log.borrow_mut().push((event.number, event.op, event.completed, all_there));
    });
    let (task_cx, id) = (Cx::clone(&cx), file.id());
    cx.block_on(async move {
        op(&task_cx, WRITE, id, 0, 512).await.expect("write");
        op(&task_cx, FileOp::Sync, id, 0, 0).await.expect("sync");
        op(&task_cx, FileOp::Read, id, 0, 512).await.expect("read");
    });
    let expected =
        [(1, WRITE, false, false), (2, WRITE, true, false), (3, FileOp::Sync, true, true)];
    assert_eq!(*seen.borrow(), expected);
}

#[test]
fn after_the_power_is_off_everything_ends_without_effect() {
    let world = World::new(7);
    let file = world.create_file("disk", &[], 4096);
    let cx = world.iothread("a").expect("iothread");
    let (task_cx, id) = (Cx::clone(&cx), file.id());
    cx.spawn(async move {
        assert_eq!(op(&task_cx, WRITE, id, 0, 512).await, Err(BlockError::Gone));
        assert_eq!(op(&task_cx, WRITE, id, 0, 512).await, Err(BlockError::Gone));
    });
    cx.turn();
    assert_eq!(world.in_flight(), 1);
    world.power_off();
    world.run_until_idle(std::slice::from_ref(&cx));
    assert_eq!((cx.tasks(), cx.ring_in_flight()), (0, 0));
    assert!(world.contents(&file) == Image::new(4096));
}
