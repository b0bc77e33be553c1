//! What is rehearsed is not done; performed it is; undone it never was.

use std::io::Cursor;

use super::*;
use crate::conformance::Stage;
use crate::{
    file::File,
    nodes::{
        file::FileNode,
        testing::{bare, read as read_bytes, write as write_bytes},
    },
    ring::sim::World,
};

const SIZE: usize = 96 << 10;

struct Scene {
    world: World,
    stage: Stage,
    file: Arc<File>,
    before: Vec<u8>,
}

fn scene(seed: u64) -> Scene {
    let world = World::new(seed);
    let stage = Stage::sim(&world, 1).expect("an iothread");
    let mut before = vec![0; SIZE];
    fastrand::Rng::with_seed(seed).fill(&mut before[..SIZE / 2]);
    let file = world.create_file("image", &before, SIZE as u64);
    Scene { world, stage, file, before }
}

fn open(file: &Arc<File>, len: usize) -> Arc<dyn Node> {
    FileNode::over(Arc::clone(file), len as u64, 1, false)
}

/// Random changes of `node`, and of a model of it.
async fn change(cx: &Cx, node: &Arc<dyn Node>, model: &mut Vec<u8>, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..12 {
        let at = rng.usize(0..model.len().max(1));
        let len = rng.usize(1..9000).min(model.len().saturating_sub(at).max(1));
        match rng.u32(0..8) {
            0..4 => {
                let mut data = vec![0; len];
                rng.fill(&mut data);
                write_bytes(cx, node, at as u64, &data).await.unwrap();
                model.resize(model.len().max(at + len), 0);
                model[at..at + len].copy_from_slice(&data);
            }
            4 if at + len <= model.len() => {
                let op = Op::WriteZeroes { unmap: true, fua: false };
                bare(cx, node, op, at as u64, len as u64).await.unwrap();
                model[at..at + len].fill(0);
            }
            5 => bare(cx, node, Op::Flush, 0, 0).await.unwrap(),
            6 => {
                let size = rng.usize(SIZE / 2..SIZE + 9000);
                Arc::clone(node).resize(Cx::clone(cx), size as u64).await.unwrap();
                model.resize(size, 0);
            }
            _ => {
                let len = len.min(model.len() - at.min(model.len()));
                let bytes = read_bytes(cx, node, at as u64, len).await.unwrap();
                assert_eq!(bytes, model[at.min(model.len())..][..len]);
            }
        }
    }
}

#[test]
fn changes_are_kept_performed_and_undone() {
    for round in 0..40 {
        let seed = fastrand::u64(..);
        println!("seed {seed:#x}, round {round}");
        let Scene { world, stage, file, before } = scene(seed);
        let (image, model) = (Arc::clone(&file), before.clone());
        let (undo_file, after) = stage
            .run(move |cx| async move {
                let mut model = model;
                let node = open(&image, SIZE);
                let rehearsal = Rehearsal::new(Arc::clone(&node), SIZE as u64);
                let above: Arc<dyn Node> = Arc::clone(&rehearsal) as _;
                change(&cx, &above, &mut model, seed).await;
                let mut out = Vec::new();
                undo::write(&cx, &rehearsal, "qcow2", &mut out).await.unwrap();
                (out, (model, rehearsal))
            })
            .unwrap();
        let (model, rehearsal) = after;
        assert_eq!(world.contents(&file).to_vec(), before, "a rehearsal changes nothing");
        let image = Arc::clone(&file);
        // Every other time it is cut short.
        let cut_short = round % 2 == 1;
        if cut_short {
            let mut state = rehearsal.state();
            let all = state.steps.len();
            state.steps.truncate(fastrand::Rng::with_seed(seed).usize(0..=all));
        }
        stage
            .run(move |cx| async move { rehearsal.perform(&cx, &open(&image, SIZE)).await })
            .unwrap()
            .unwrap();
        if !cut_short {
            assert_eq!(world.contents(&file).to_vec(), model, "performed as rehearsed");
        }
        let (image, len) = (Arc::clone(&file), world.contents(&file).len() as usize);
        let undone = stage
            .run(move |cx| async move {
                let node = open(&image, len);
                undo::undo(&cx, &mut Cursor::new(undo_file), &node, len as u64).await
            })
            .unwrap()
            .unwrap();
        assert_eq!(undone.size, SIZE as u64);
        assert_eq!(world.contents(&file).to_vec(), before, "undone");
    }
}

#[test]
fn another_image_and_a_damaged_undo_file_are_refused() {
    let Scene { world, stage, file, before } = scene(7);
    let image = Arc::clone(&file);
    let undo_file = stage
        .run(move |cx| async move {
            let node = open(&image, SIZE);
            let rehearsal = Rehearsal::new(Arc::clone(&node), SIZE as u64);
            let above: Arc<dyn Node> = Arc::clone(&rehearsal) as _;
            read_bytes(&cx, &above, 20_000, 600).await.unwrap();
            write_bytes(&cx, &above, 4096, &[1; 700]).await.unwrap();
            let mut out = Vec::new();
            undo::write(&cx, &rehearsal, "raw", &mut out).await.unwrap();
            rehearsal.perform(&cx, &node).await.unwrap();
            out
        })
        .unwrap();
    let performed = world.contents(&file).to_vec();
    assert_ne!(performed, before);
    let attempt = |change: Option<(usize, u8)>, spoil: Option<usize>| {
        let mut bytes = performed.clone();
        if let Some((at, byte)) = change {
            bytes[at] ^= byte;
        }
        let mut undo_file = undo_file.clone();
        if let Some(at) = spoil {
            undo_file[at] ^= 1;
        }
        let image = world.create_file("copy", &bytes, SIZE as u64);
        let result = stage
            .run(move |cx| async move {
                let node = open(&image, SIZE);
                undo::undo(&cx, &mut Cursor::new(undo_file), &node, SIZE as u64).await
            })
            .unwrap();
        result.map_err(|e| e.to_string())
    };
    assert!(attempt(None, None).unwrap().changed);
    // What is neither read nor written may change.
    assert!(attempt(Some((60_000, 1)), None).unwrap().changed);
    for at in [4096, 4700, 20_100] {
        let error = attempt(Some((at, 1)), None).unwrap_err();
        assert!(error.contains("not the one"), "{at}: {error}");
    }
    for at in (0..undo_file.len()).step_by(97) {
        let error = attempt(None, Some(at)).unwrap_err();
        assert!(error.contains("no undo file"), "{at}: {error}");
    }
}
