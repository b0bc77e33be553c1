//! The handshake and the wire, byte by byte; the server with real clients is in `tests/nbd.rs`.
use super::negotiate::{Agreed, Offer, Outcome, Tls, greet, negotiate};
use super::spec::{Command, EXTENDED_REQUEST_LEN, REQUEST_LEN, Request};
use proptest::prelude::*;
use std::io::{self, Cursor, Read, Write};

/// A client that has said everything already.
struct Said {
    input: Cursor<Vec<u8>>,
    output: Vec<u8>,
}

impl Read for &mut Said {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.input.read(buf)
    }
}

impl Write for &mut Said {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.output.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn offer() -> Offer {
    Offer {
        name: "disk".to_owned(),
        description: None,
        size: 1 << 20,
        flags: 1,
        contexts: vec!["base:allocation".to_owned()],
    }
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut out = b"IHAVEOPT".to_vec();
    out.extend(number.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
    out
}

/// Returns what was agreed, and the kinds of the answers.
fn shake(flags: u32, options: &[Vec<u8>]) -> (io::Result<Option<Agreed>>, Vec<u32>, Vec<u8>) {
    let (outcome, kinds, rest) = shake_with(Tls::No, flags, options);
    let agreed = outcome.map(|outcome| match outcome {
        Outcome::Agreed(agreed) => Some(agreed),
        _ => None,
    });
    (agreed, kinds, rest)
}

fn shake_with(
    tls: Tls,
    flags: u32,
    options: &[Vec<u8>],
) -> (io::Result<Outcome>, Vec<u32>, Vec<u8>) {
    let mut input = flags.to_be_bytes().to_vec();
    input.extend(options.concat());
    let mut said = Said { input: Cursor::new(input), output: Vec::new() };
    let client = greet(&mut said);
    let agreed = client.and_then(|client| negotiate(&mut said, &offer(), client, tls));
    let mut kinds = Vec::new();
    let mut rest = &said.output[18..];
    while rest.len() >= 20 && rest[..8] == 0x0003_e889_0455_65a9_u64.to_be_bytes() {
        kinds.push(u32::from_be_bytes(rest[12..16].try_into().unwrap()));
        let len = u32::from_be_bytes(rest[16..20].try_into().unwrap());
        rest = &rest[20 + len as usize..];
    }
    (agreed, kinds, rest.to_vec())
}

fn named(name: &[u8], tail: &[u8]) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes()[..], name, tail].concat()
}

const UNSUP: u32 = (1 << 31) + 1;
const POLICY: u32 = (1 << 31) + 2;
const INVALID: u32 = (1 << 31) + 3;
const TLS_REQD: u32 = (1 << 31) + 5;
const UNKNOWN: u32 = (1 << 31) + 6;
const TOO_BIG: u32 = (1 << 31) + 9;
const EXT_HEADER_REQD: u32 = (1 << 31) + 10;

#[test]
fn a_client_that_asks_for_everything_gets_it() {
    let query = [&1_u32.to_be_bytes()[..], &named(b"base:allocation", &[])].concat();
    let (agreed, kinds, _) = shake(
        3,
        &[
            option(8, &[]),
            option(3, &[]),
            option(10, &named(b"disk", &query)),
            option(7, &named(b"disk", &[0, 0])),
        ],
    );
    assert_eq!(
        agreed.unwrap(),
        Some(Agreed { structured: true, extended: false, contexts: vec![0] })
    );
    // ACK; SERVER, ACK; META_CONTEXT, ACK; INFO twice, ACK.
    assert_eq!(kinds, [1, 2, 1, 4, 1, 3, 3, 1]);
}

#[test]
fn extended_headers_come_with_structured_replies_and_instead_of_them() {
    let begin = |options: &[u32]| {
        let options: Vec<Vec<u8>> = options.iter().map(|number| option(*number, &[])).collect();
        let end = option(7, &named(b"disk", &[0, 0]));
        let (agreed, kinds, _) = shake(3, &[options, vec![end]].concat());
        (agreed.unwrap().unwrap(), kinds)
    };
    let wide = Agreed { structured: true, extended: true, contexts: Vec::new() };
    assert_eq!(begin(&[11]), (wide.clone(), vec![1, 3, 3, 1]));
    assert_eq!(begin(&[8, 11]), (wide.clone(), vec![1, 1, 3, 3, 1]));
    assert_eq!(begin(&[11, 11]), (wide.clone(), vec![1, INVALID, 3, 3, 1]));
    assert_eq!(begin(&[11, 8]), (wide, vec![1, EXT_HEADER_REQD, 3, 3, 1]));
    let (agreed, kinds, _) = shake(3, &[option(11, &[1]), option(2, &[])]);
    assert_eq!((agreed.unwrap(), kinds), (None, vec![INVALID, 1]));
}

#[test]
fn nothing_is_told_before_tls_where_it_is_needed() {
    let before = |options: &[Vec<u8>]| shake_with(Tls::Needed, 3, options);
    let options =
        [option(3, &[]), option(8, &[]), option(7, &named(b"disk", &[0, 0])), option(5, &[])];
    let (outcome, kinds, _) = before(&options);
    assert_eq!(outcome.unwrap(), Outcome::StartTls);
    assert_eq!(kinds, [TLS_REQD, TLS_REQD, TLS_REQD, 1]);
    assert!(before(&[option(1, b"disk")]).0.is_err());
    let (outcome, kinds, _) = before(&[option(5, &[1]), option(2, &[])]);
    assert_eq!((outcome.unwrap(), kinds), (Outcome::Over, vec![INVALID, 1]));
    let (_, kinds, _) = shake_with(Tls::On, 3, &[option(5, &[]), option(2, &[])]);
    assert_eq!(kinds, [INVALID, 1]);
}

#[test]
fn an_old_client_names_the_export_and_is_there() {
    let (agreed, kinds, rest) = shake(1, &[option(1, b"disk")]);
    assert_eq!(agreed.unwrap(), Some(Agreed::default()));
    assert_eq!((kinds.len(), rest.len()), (0, 8 + 2 + 124));
    assert!(shake(1, &[option(1, b"other")]).0.is_err());
    assert_eq!(shake(3, &[option(1, b"disk")]).2.len(), 10);
}

#[test]
fn what_cannot_be_had_is_refused_in_its_own_way() {
    let refused = |data: Vec<u8>| shake(3, &[data, option(2, &[])]).1[0];
    assert_eq!(refused(option(5, &[])), POLICY);
    assert_eq!(refused(option(4, &[])), UNSUP);
    assert_eq!(refused(option(99, &[1, 2, 3])), UNSUP);
    assert_eq!(refused(option(7, &named(b"other", &[0, 0]))), UNKNOWN);
    assert_eq!(refused(option(7, &named(b"disk", &[]))), INVALID);
    assert_eq!(refused(option(7, &named(b"disk", &[0, 9]))), INVALID);
    assert_eq!(refused(option(7, &[0xff; 8])), INVALID);
    assert_eq!(refused(option(8, &[1])), INVALID);
    // Contexts need structured replies.
    assert_eq!(refused(option(10, &named(b"disk", &[0, 0, 0, 0]))), INVALID);
    assert_eq!(refused(option(3, &vec![0; 1 << 20])), TOO_BIG);
    let (agreed, kinds, _) = shake(3, &[option(2, &[])]);
    assert_eq!((agreed.unwrap(), kinds), (None, vec![1]));
}

#[test]
fn nonsense_ends_the_connection() {
    assert!(shake(0xffff_ffff, &[]).0.is_err());
    assert!(shake(0, &[option(3, &[])]).0.is_err());
    assert!(shake(3, &[b"IHAVENOOPT_AT_ALL_".to_vec()]).0.is_err());
    let endless = [b"IHAVEOPT".to_vec(), 3_u32.to_be_bytes().to_vec(), vec![0xff; 4]].concat();
    assert!(shake(3, &[endless]).0.is_err());
}

#[test]
fn requests_are_parsed_field_by_field() {
    let mut bytes = [0; REQUEST_LEN];
    bytes[..4].copy_from_slice(&0x2560_9513_u32.to_be_bytes());
    bytes[4..6].copy_from_slice(&0x0102_u16.to_be_bytes());
    bytes[6..8].copy_from_slice(&6_u16.to_be_bytes());
    bytes[8..16].copy_from_slice(&7_u64.to_be_bytes());
    bytes[16..24].copy_from_slice(&0x0102_0304_0506_0708_u64.to_be_bytes());
    bytes[24..].copy_from_slice(&512_u32.to_be_bytes());
    let request = Request::parse(&bytes).unwrap();
    assert_eq!(request.command, Some(Command::WriteZeroes));
    assert_eq!((request.flags, request.cookie, request.len), (0x0102, 7, 512));
    assert_eq!(request.offset, 0x0102_0304_0506_0708);
    assert_eq!(Request::parse_extended(&[&bytes[..], &[0; 4]].concat().try_into().unwrap()), None);
    bytes[7] = 99;
    assert_eq!(Request::parse(&bytes).unwrap().command, None);
    bytes[0] = 0;
    assert_eq!(Request::parse(&bytes), None);
}

#[test]
fn an_extended_request_has_a_wide_length_and_may_say_how_much_follows() {
    let mut bytes = [0; EXTENDED_REQUEST_LEN];
    bytes[..4].copy_from_slice(&0x21e4_1c71_u32.to_be_bytes());
    bytes[7] = 7;
    bytes[24..].copy_from_slice(&0x0102_0304_0506_0708_u64.to_be_bytes());
    let request = Request::parse_extended(&bytes).unwrap();
    assert_eq!(request.command, Some(Command::BlockStatus));
    assert_eq!((request.len, request.payload(true)), (0x0102_0304_0506_0708, 0));
    bytes[5] = 1 << 5;
    let request = Request::parse_extended(&bytes).unwrap();
    assert_eq!((request.payload(true), request.payload(false)), (request.len, 0));
    bytes[0] = 0;
    assert_eq!(Request::parse_extended(&bytes), None);
}

proptest! {
    #[test]
    fn no_client_is_too_strange(flags in 0_u32..4, rest: Vec<u8>, number in 0_u32..13, data: Vec<u8>) {
        let _ = shake(flags, &[option(8, &[]), option(number, &data), rest.clone()]);
        let _ = shake(flags, &[option(11, &[]), option(number, &data), rest]);
    }
}
