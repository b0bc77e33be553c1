//! State files: whole, damaged, and in the middle of a save.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use proptest::prelude::*;

use super::*;

fn section(version: u16, bytes: &[u8]) -> Section {
    Section { version, bytes: bytes.to_vec() }
}

fn sample() -> Sections {
    Sections::from([
        ("nvme/reservations".to_owned(), section(1, &[1, 2, 3])),
        ("nvme/features".to_owned(), section(7, &[])),
    ])
}

fn put(state: &Arc<DiskState>, name: &str, section: Section) -> io::Result<()> {
    let result = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&result);
    state.put(name, section, Box::new(move |r| *slot.lock().unwrap() = Some(r)));
    result.lock().unwrap().take().expect("these stores save at once")
}

#[test]
fn what_is_put_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::new(dir.path().join("disk.qcow2.state"));
    let state = DiskState::open(Arc::clone(&store) as _).unwrap();
    assert_eq!(state.get("a"), None);
    assert!(!store.path().exists(), "made at first need");
    put(&state, "a", section(3, b"abc")).unwrap();
    put(&state, "b", section(1, b"")).unwrap();
    put(&state, "a", section(4, b"abcd")).unwrap();
    let again = DiskState::open(Arc::clone(&store) as _).unwrap();
    assert_eq!(again.get("a"), Some(section(4, b"abcd")));
    assert_eq!(again.get("b"), Some(section(1, b"")));
    state.remove("b", Box::new(|result| result.unwrap()));
    assert_eq!(DiskState::open(store).unwrap().get("b"), None);
}

#[test]
fn a_crash_in_the_middle_of_a_save_leaves_the_old_state() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::new(dir.path().join("state"));
    let state = DiskState::open(Arc::clone(&store) as _).unwrap();
    put(&state, "a", section(1, b"old")).unwrap();
    std::fs::write(dir.path().join("state.new"), b"half a f").unwrap();
    let again = DiskState::open(store).unwrap();
    assert_eq!(again.get("a"), Some(section(1, b"old")));
    put(&again, "a", section(1, b"new")).unwrap();
    assert!(!dir.path().join("state.new").exists());
}

#[test]
fn a_link_in_the_place_of_the_new_file_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, b"precious").unwrap();
    std::os::unix::fs::symlink(&victim, dir.path().join("state.new")).unwrap();
    let state = DiskState::open(FileStore::new(dir.path().join("state"))).unwrap();
    put(&state, "a", section(1, b"x")).unwrap();
    assert_eq!(std::fs::read(victim).unwrap(), b"precious");
}

#[test]
fn a_failed_save_is_told_and_the_next_one_saves_all() {
    let store = MemoryStore::new();
    let state = DiskState::open(Arc::clone(&store) as _).unwrap();
    store.fail(true);
    assert!(put(&state, "a", section(1, b"x")).is_err());
    store.fail(false);
    put(&state, "b", section(1, b"y")).unwrap();
    let again = DiskState::open(store).unwrap();
    assert_eq!(again.get("a"), Some(section(1, b"x")));
}

/// Holds saves until the test lets them end.
#[derive(Default)]
struct SlowStore(Mutex<Vec<(Vec<u8>, Saved)>>);

impl StateStore for SlowStore {
    fn load(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn save(&self, bytes: Vec<u8>, saved: Saved) {
        let mut saves = self.0.lock().unwrap();
        assert!(saves.is_empty(), "one save at a time");
        saves.push((bytes, saved));
    }
}

#[test]
fn changes_during_a_save_wait_for_the_next_one() {
    let store = Arc::new(SlowStore::default());
    let state = DiskState::open(Arc::clone(&store) as _).unwrap();
    let ended = Arc::new(AtomicU32::new(0));
    for n in 0..3 {
        let ended = Arc::clone(&ended);
        let saved: Saved = Box::new(move |result| {
            result.unwrap();
            ended.fetch_add(1, SeqCst);
        });
        state.put("a", section(n, &[]), saved);
    }
    for (version, expected) in [(0, 1), (2, 3)] {
        let (bytes, saved) = store.0.lock().unwrap().pop().unwrap();
        assert_eq!(decode(&bytes).unwrap()["a"].version, version);
        saved(Ok(()));
        assert_eq!(ended.load(SeqCst), expected);
    }
    assert!(store.0.lock().unwrap().is_empty());
}

#[test]
fn every_damage_is_refused_by_name() {
    let bytes = encode(&sample());
    assert_eq!(decode(&bytes).unwrap(), sample());
    assert!(matches!(decode(b""), Err(StateError::Magic)));
    assert!(matches!(decode(b"QFI\xfb rest"), Err(StateError::Magic)));
    for len in 8..bytes.len() {
        assert!(decode(&bytes[..len]).is_err(), "cut at {len}");
    }
    for at in 8..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x10;
        assert!(decode(&wrong).is_err(), "flipped at {at}");
    }
    let mut later = bytes.clone();
    later[8] = 2;
    assert!(matches!(decode(&later), Err(StateError::Version(2))));
    let mut more = bytes;
    more.push(0);
    assert!(matches!(decode(&more), Err(StateError::Damaged)));
}

/// Puts the right hash behind a body, so that what lies behind the hash is tested.
fn with_hash(body: &[u8]) -> Vec<u8> {
    let hash = body.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    [body, &hash.to_le_bytes()].concat()
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        names in proptest::collection::btree_map("[a-z0-9./-]{1,64}", any::<(u16, Vec<u8>)>(), 0..8)
    ) {
        let sections: Sections = names
            .into_iter()
            .map(|(name, (version, bytes))| (name, Section { version, bytes }))
            .collect();
        prop_assert_eq!(decode(&encode(&sections)).unwrap(), sections);
    }

    /// Whatever the bytes: an answer, no panic, no large allocation; and what is accepted can be
    /// written again.
    #[test]
    fn hostile_bytes_are_only_refused(mut body in proptest::collection::vec(any::<u8>(), 0..200), keep in 8..40usize) {
        let good = encode(&sample());
        let keep = keep.min(body.len());
        body[..keep].copy_from_slice(&good[..keep]);
        if let Ok(sections) = decode(&with_hash(&body)) {
            prop_assert_eq!(decode(&encode(&sections)).unwrap(), sections);
        }
    }
}
