use super::*;
use flate2::{Decompress, FlushDecompress, Status};

/// Unpacks in small steps, so that the window of 4 KiB is all that the reader has.
fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut inflate = Decompress::new_with_window_bits(false, 12);
    let mut bytes = Vec::new();
    let mut part = [0; 777];
    loop {
        let (read, written) = (inflate.total_in() as usize, inflate.total_out());
        let status = inflate.decompress(&packed[read..], &mut part, FlushDecompress::None);
        let status = status.expect("a stream that can be read");
        bytes.extend_from_slice(&part[..(inflate.total_out() - written) as usize]);
        if status == Status::StreamEnd {
            assert_eq!(inflate.total_in(), packed.len() as u64, "nothing follows the end");
            return bytes;
        }
        assert!(inflate.total_out() > written, "the stream has an end");
    }
}

/// Packs, looks at what comes out, and returns its length.
fn there_and_back(encoder: &mut Encoder, data: &[u8]) -> usize {
    let mut out = vec![0xa5; data.len() + 64 + data.len() / 1000];
    let len = encoder.encode(data, &mut out).expect("there is room");
    // Whole words are written, of which the last may not be full.
    assert!(out.iter().skip(len + 8).all(|byte| *byte == 0xa5));
    assert!(unpack(&out[..len]) == data, "what was packed comes back");
    len
}

/// Data that is a bit like programs and texts: words, noise, runs and repetitions.
fn mixture(random: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    let mut data = Vec::new();
    while data.len() < len {
        match random.u8(..5) {
            0 => data.extend((0..random.usize(..400)).map(|_| random.u8(..))),
            1 => data.extend(std::iter::repeat_n(random.u8(..), random.usize(..3000))),
            2 => data.extend((0..random.usize(..400)).map(|_| b'a' + random.u8(..4))),
            3 => data.extend(format!("number {} of {}; ", random.u16(..), random.u8(..)).bytes()),
            _ if data.is_empty() => {}
            _ => {
                // From anywhere, within the window and beyond it.
                let from = data.len() - 1 - random.usize(..data.len().min(9000));
                let run = random.usize(1..600);
                for n in 0..run {
                    data.push(data[from + n]);
                }
            }
        }
    }
    data.truncate(len);
    data
}

#[test]
fn whatever_is_packed_can_be_unpacked_in_a_window_of_4_kib() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut encoder = Encoder::new();
    for len in (0..70).chain([511, 512, 4095, 4096, 4097, 65535, 65536, 65537, 200_000, 2 << 20]) {
        let data = mixture(&mut random, len);
        there_and_back(&mut encoder, &data);
    }
    for _ in 0..60 {
        let len = random.usize(1..150_000);
        let data = mixture(&mut random, len);
        there_and_back(&mut encoder, &data);
    }
}

#[test]
fn the_extremes_are_packed_as_far_as_they_can_be() {
    let mut encoder = Encoder::new();
    assert!(there_and_back(&mut encoder, &[0; 65536]) < 100);
    assert!(there_and_back(&mut encoder, b"") <= 2);
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(65536).collect();
    // Stored: five bytes for each block.
    let stored = there_and_back(&mut encoder, &noise);
    assert!((65536..65536 + 100).contains(&stored), "{stored}");
    assert_eq!(encoder.encode(&noise, &mut [0; 65535]), None);
    // The same again, just within reach and just beyond.
    for (apart, packs) in [(4000, true), (4095, true), (4096, false), (5000, false)] {
        let twice = [&noise[..apart], &noise[..apart]].concat();
        let len = there_and_back(&mut encoder, &twice);
        assert_eq!(len < apart * 3 / 2, packs, "{apart} bytes apart: {len}");
    }
}

#[test]
fn what_was_packed_before_makes_no_difference() {
    let mut random = fastrand::Rng::with_seed(7);
    let (first, second) = (mixture(&mut random, 65536), mixture(&mut random, 65536));
    let pack = |encoder: &mut Encoder, data: &[u8]| {
        let mut out = vec![0; 70_000];
        let len = encoder.encode(data, &mut out).expect("there is room");
        out[..len].to_vec()
    };
    let alone = pack(&mut Encoder::new(), &second);
    let mut encoder = Encoder::new();
    pack(&mut encoder, &first);
    assert!(pack(&mut encoder, &second) == alone);
}

#[test]
fn it_packs_about_as_well_as_zlib_does() {
    // The test program itself: real code, at hand everywhere.
    let program = std::fs::read("/proc/self/exe").expect("the program");
    let mut encoder = Encoder::new();
    let mut zlib = flate2::Compress::new_with_window_bits(flate2::Compression::new(6), false, 12);
    let (mut ours, mut theirs) = (0, 0);
    let mut out = vec![0; 70_000];
    for cluster in program.chunks_exact(65536).step_by(16) {
        ours += encoder.encode(cluster, &mut out).expect("there is room");
        zlib.reset();
        let done = zlib.compress(cluster, &mut out, flate2::FlushCompress::Finish);
        done.expect("it packs");
        theirs += zlib.total_out() as usize;
    }
    assert!(ours * 100 <= theirs * 105, "{ours} bytes against {theirs}");
}

#[test]
fn room_that_is_too_small_is_noticed() {
    let mut random = fastrand::Rng::with_seed(11);
    let data = mixture(&mut random, 5000);
    let mut encoder = Encoder::new();
    let len = there_and_back(&mut encoder, &data);
    for room in 0..len {
        assert_eq!(encoder.encode(&data, &mut vec![0; room]), None, "{room} of {len}");
    }
    assert_eq!(encoder.encode(&data, &mut vec![0; len]), Some(len));
}
