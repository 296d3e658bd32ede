use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;

fn message(code: u32, body: &[u8]) -> Vec<u8> {
    let header = InHeader {
        len: (size_of::<InHeader>() + body.len()) as u32,
        opcode: code,
        unique: 77,
        node: 5,
        uid: 0,
        gid: 0,
        pid: 0,
        extensions: 0,
        padding: 0,
    };
    [header.as_bytes(), body].concat()
}

fn read_in(offset: u64, size: u32) -> ReadIn {
    ReadIn { fh: 0, offset, size, read_flags: 0, lock_owner: 0, flags: 0, padding: 0 }
}

#[test]
fn a_read_carries_its_span() {
    let bytes = message(opcode::READ, read_in(4096, 1 << 20).as_bytes());
    let request = Request::parse(&bytes).unwrap();
    assert_eq!((request.unique, request.node), (77, 5));
    assert!(matches!(request.operation, Operation::Read(Span { offset: 4096, size: 1_048_576 })));
}

#[test]
fn a_name_ends_at_its_zero_and_must_have_one() {
    let bytes = message(opcode::LOOKUP, b"layer\0");
    assert!(matches!(Request::parse(&bytes).unwrap().operation, Operation::Lookup { name: b"layer" }));
    for body in [&b"layer"[..], b""] {
        let bytes = message(opcode::LOOKUP, body);
        assert_eq!(
            Request::parse(&bytes).unwrap_err(),
            Malformed::Body { unique: 77, opcode: opcode::LOOKUP }
        );
    }
}

#[test]
fn both_words_of_flags_are_joined() {
    let hello = InitIn { major: 7, minor: 45, max_readahead: 0, flags: 1 };
    for (tail, flags) in [(&[0_u8; 0][..], 1), (&128_u32.to_ne_bytes(), 1 | 1 << 39)] {
        let bytes = message(opcode::INIT, &[hello.as_bytes(), tail].concat());
        let Operation::Init { flags: got, .. } = Request::parse(&bytes).unwrap().operation else { panic!() };
        assert_eq!(got, flags);
    }
}

#[test]
fn a_wrong_length_is_no_request() {
    let whole = message(opcode::READ, read_in(0, 1).as_bytes());
    let longer = [&whole[..], b"x"].concat();
    for bytes in [&whole[..whole.len() - 1], &whole[..39], &whole[..0], &longer] {
        assert_eq!(Request::parse(bytes).unwrap_err(), Malformed::Header { len: bytes.len() });
    }
    let short = message(opcode::READ, &read_in(0, 1).as_bytes()[..39]);
    assert_eq!(Request::parse(&short).unwrap_err(), Malformed::Body { unique: 77, opcode: opcode::READ });
}

#[test]
fn an_unknown_operation_is_named() {
    let bytes = message(4711, b"whatever");
    assert!(matches!(Request::parse(&bytes).unwrap().operation, Operation::Other(4711)));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Request::parse(&bytes);
    }

    #[test]
    fn no_body_makes_it_panic(code in 0_u32..60, body in proptest::collection::vec(any::<u8>(), 0..100)) {
        let bytes = message(code, &body);
        match Request::parse(&bytes) {
            Ok(request) => prop_assert_eq!(request.unique, 77),
            Err(malformed) => prop_assert_eq!(malformed, Malformed::Body { unique: 77, opcode: code }),
        }
    }
}
