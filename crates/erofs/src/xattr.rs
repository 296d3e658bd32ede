//! Extended attributes: full names to the format's short namespaces and back, and their encoded form.

use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;

use crate::error::{Error, InvalidXattr};
use crate::layout::{MAX_XATTR_BODY_LEN, MAX_XATTR_VALUE_LEN, XATTR_ALIGN, XattrBodyHeader, XattrEntry};

/// Longest full name that Linux's xattr calls take.
const MAX_FULL_NAME_LEN: usize = 255;

/// Namespaces by their number on disk. One that ends in a dot needs a name behind it, the others are whole names.
const NAMESPACES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// Says whether an image can hold this xattr on a node that has no other. `name` is the full name.
///
/// Whoever prefers an image without an xattr to no image can leave out what this refuses.
///
/// # Errors
/// The rule that the xattr breaks.
pub fn check(name: &[u8], value: &[u8]) -> Result<(), InvalidXattr> {
    split_name(name)?;
    if value.len() > MAX_XATTR_VALUE_LEN {
        return Err(InvalidXattr::ValueTooLong);
    }
    Ok(())
}

/// The namespace of a full name and what follows it.
pub(crate) fn split_name(name: &[u8]) -> Result<(u8, &[u8]), InvalidXattr> {
    if name.len() > MAX_FULL_NAME_LEN {
        return Err(InvalidXattr::NameTooLong);
    }
    if name.contains(&0) {
        return Err(InvalidXattr::Name);
    }
    for (namespace, prefix) in NAMESPACES {
        match (name.strip_prefix(prefix), prefix.ends_with(b".")) {
            (Some(b""), true) => return Err(InvalidXattr::Name),
            (Some(rest), true) => return Ok((namespace, rest)),
            (Some(b""), false) => return Ok((namespace, b"")),
            (Some(_), false) | (None, _) => {}
        }
    }
    Err(InvalidXattr::Namespace)
}

/// The text that a namespace number stands for.
pub(crate) fn prefix(namespace: u8) -> Option<&'static [u8]> {
    NAMESPACES.iter().find(|(number, _)| *number == namespace).map(|(_, prefix)| *prefix)
}

/// The xattr body of an inode, sorted by full name so that the order of `xattrs` does not matter; empty if there are none.
pub(crate) fn encode(mut xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Box<[u8]>, Error> {
    if xattrs.is_empty() {
        return Ok(Box::default());
    }
    xattrs.sort_unstable();
    let header = XattrBodyHeader { name_filter: 0.into(), shared_count: 0, reserved: [0; 7] };
    let mut body = header.as_bytes().to_vec();
    let mut previous: Option<&[u8]> = None;
    for (name, value) in &xattrs {
        let refuse = |reason| Error::InvalidXattr { name: name.clone(), reason };
        if previous == Some(name) {
            return Err(refuse(InvalidXattr::Duplicate));
        }
        previous = Some(name);
        let (namespace, rest) = split_name(name).map_err(refuse)?;
        let value_len = u16::try_from(value.len()).map_err(|_| refuse(InvalidXattr::ValueTooLong))?;
        let name_len = u8::try_from(rest.len()).map_err(|_| refuse(InvalidXattr::NameTooLong))?;
        body.extend(XattrEntry { name_len, namespace, value_len: U16::new(value_len) }.as_bytes());
        body.extend(rest);
        body.extend(value);
        body.resize(body.len().next_multiple_of(XATTR_ALIGN), 0);
        if body.len() > MAX_XATTR_BODY_LEN {
            return Err(Error::XattrsTooLong { len: encoded_len(&xattrs) });
        }
    }
    Ok(body.into_boxed_slice())
}

/// Length of the encoded form, an upper bound for names whose namespace is unknown.
fn encoded_len(xattrs: &[(Vec<u8>, Vec<u8>)]) -> usize {
    let entry = |(name, value): &(Vec<u8>, Vec<u8>)| {
        let rest = split_name(name).map_or(name.len(), |(_, rest)| rest.len());
        (size_of::<XattrEntry>() + rest + value.len()).next_multiple_of(XATTR_ALIGN)
    };
    size_of::<XattrBodyHeader>() + xattrs.iter().map(entry).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_at_their_namespace() {
        type Split = Result<(u8, &'static [u8]), InvalidXattr>;
        let rows: [(&[u8], Split); 12] = [
            (b"user.a", Ok((1, b"a"))),
            (b"user.a.b", Ok((1, b"a.b"))),
            (b"trusted.overlay.opaque", Ok((4, b"overlay.opaque"))),
            (b"security.capability", Ok((6, b"capability"))),
            (b"system.posix_acl_access", Ok((2, b""))),
            (b"system.posix_acl_default", Ok((3, b""))),
            (b"system.posix_acl_access2", Err(InvalidXattr::Namespace)),
            (b"system.nfs4_acl", Err(InvalidXattr::Namespace)),
            (b"com.apple.quarantine", Err(InvalidXattr::Namespace)),
            (b"user.", Err(InvalidXattr::Name)),
            (b"user.a\0", Err(InvalidXattr::Name)),
            (&[b'u'; 256], Err(InvalidXattr::NameTooLong)),
        ];
        for (name, expected) in rows {
            assert_eq!(split_name(name), expected, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn the_order_of_xattrs_does_not_matter() {
        let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let a = encode(vec![pair("user.a", "1"), pair("security.b", "22"), pair("trusted.c", "")]).unwrap();
        let b = encode(vec![pair("trusted.c", ""), pair("security.b", "22"), pair("user.a", "1")]).unwrap();
        assert_eq!(a, b);
        assert_eq!(a.len(), 12 + 8 + 8 + 8);
    }

    #[test]
    fn a_value_is_bounded_by_its_length_field() {
        let value = |len| vec![(b"user.a".to_vec(), vec![0; len])];
        assert!(encode(value(65_535)).is_ok());
        assert!(matches!(
            encode(value(65_536)),
            Err(Error::InvalidXattr { reason: InvalidXattr::ValueTooLong, .. })
        ));
        assert_eq!(check(b"user.a", &[0; 65_535]), Ok(()));
        assert_eq!(check(b"user.a", &[0; 65_536]), Err(InvalidXattr::ValueTooLong));
    }

    #[test]
    fn the_body_is_bounded_by_the_inodes_count() {
        let entry = |i: u8, len| (vec![b'u', b's', b'e', b'r', b'.', i], vec![0; len]);
        // Three entries of 65540 bytes and the header leave 65516 of the 262148 bytes: 4 + 1 + 65511.
        let rest = MAX_XATTR_BODY_LEN - 12 - 3 * 65_540;
        let mut xattrs: Vec<_> = (b'a'..=b'c').map(|i| entry(i, 65_535)).collect();
        xattrs.push(entry(b'd', rest - 5));
        assert_eq!(encode(xattrs.clone()).unwrap().len(), MAX_XATTR_BODY_LEN);
        xattrs.push(entry(b'e', 0));
        let error = encode(xattrs).unwrap_err();
        assert!(matches!(error, Error::XattrsTooLong { len } if len == MAX_XATTR_BODY_LEN + 8), "{error}");
    }

    #[test]
    fn a_name_occurs_once() {
        let twice = vec![(b"user.a".to_vec(), vec![1]), (b"user.a".to_vec(), vec![2])];
        assert!(matches!(encode(twice), Err(Error::InvalidXattr { reason: InvalidXattr::Duplicate, .. })));
    }
}
