//! Archive bytes to members: ustar, PAX, and the long names and binary numbers of GNU tar.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::write::BLOCK;
use super::{Member, Type};
use crate::tree::Time;

/// A member and where it lies in the archive.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The member, extended headers applied.
    pub member: Member,
    /// The bytes of its headers, extended ones included.
    pub header: Range<usize>,
    /// The bytes of its content, without padding.
    pub content: Range<usize>,
}

/// The members of an archive, in order.
///
/// # Panics
/// When `tar` is cut short or holds types other than those of [`Type`].
pub fn parse(tar: &[u8]) -> Vec<Parsed> {
    let mut members = Vec::new();
    let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let (mut at, mut start) = (0, 0);
    while let Some(block) = tar.get(at..at + BLOCK).filter(|block| block.iter().any(|byte| *byte != 0)) {
        let size = match records.get(b"size".as_slice()) {
            Some(size) => text(size).parse().expect("a decimal size"),
            None => number(&block[124..136]) as usize,
        };
        let content = at + BLOCK..at + BLOCK + size;
        let data = tar.get(content.clone()).expect("the content of a tar member is cut short");
        at = content.end.next_multiple_of(BLOCK);
        match block[156] {
            b'x' => records.extend(pax_records(data)),
            b'g' => {} // global headers carry comments in practice
            b'L' => drop(records.insert(b"path".to_vec(), until_nul(data).to_vec())),
            b'K' => drop(records.insert(b"linkpath".to_vec(), until_nul(data).to_vec())),
            flag => {
                let header = start..content.start;
                let member = member(block, flag, data, std::mem::take(&mut records));
                members.push(Parsed { member, header, content });
                start = at;
            }
        }
    }
    members
}

fn member(block: &[u8], flag: u8, data: &[u8], records: BTreeMap<Vec<u8>, Vec<u8>>) -> Member {
    let kind = match flag {
        b'0' | b'7' | 0 => Type::File,
        b'1' => Type::Hardlink,
        b'2' => Type::Symlink,
        b'3' => Type::Char,
        b'4' => Type::Block,
        b'5' => Type::Dir,
        b'6' => Type::Fifo,
        flag => panic!("tar type {:?} is not supported here", char::from(flag)),
    };
    let mut member = Member::new(kind, name(block));
    member.link = until_nul(&block[157..257]).to_vec();
    member.mode = number(&block[100..108]) as u32;
    member.uid = number(&block[108..116]) as u32;
    member.gid = number(&block[116..124]) as u32;
    member.mtime.secs = number(&block[136..148]);
    member.user = text(until_nul(&block[265..297]));
    member.group = text(until_nul(&block[297..329]));
    member.device.major = number(&block[329..337]) as u32;
    member.device.minor = number(&block[337..345]) as u32;
    member.content = Bytes::copy_from_slice(data);
    for (key, value) in records {
        match key.as_slice() {
            b"path" => member.name = value,
            b"linkpath" => member.link = value,
            b"uid" => member.uid = text(&value).parse().expect("a decimal uid"),
            b"gid" => member.gid = text(&value).parse().expect("a decimal gid"),
            b"uname" => member.user = text(&value),
            b"gname" => member.group = text(&value),
            b"mtime" => member.mtime = time(&text(&value)),
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    member.xattrs.insert(name.to_vec(), value);
                }
            }
        }
    }
    member
}

/// The name field, behind the prefix field where ustar has one (GNU headers keep other things there).
fn name(block: &[u8]) -> Vec<u8> {
    let (name, prefix) = (until_nul(&block[..100]), until_nul(&block[345..500]));
    match &block[257..263] {
        b"ustar\0" if !prefix.is_empty() => [prefix, b"/", name].concat(),
        _ => name.to_vec(),
    }
}

/// `LEN KEY=VALUE\n` records. A value may hold anything, newlines too, so only the lengths delimit.
fn pax_records(mut data: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records = Vec::new();
    while let Some(space) = data.iter().position(|byte| *byte == b' ') {
        let len: usize = text(&data[..space]).parse().expect("a decimal record length");
        let (record, rest) = data.split_at(len);
        let record = record[space + 1..].strip_suffix(b"\n").expect("a newline at the end of a record");
        let equals = record.iter().position(|byte| *byte == b'=').expect("a '=' in a record");
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        data = rest;
    }
    records
}

/// Octal text, or two's complement base 256 when the top bit is set.
fn number(field: &[u8]) -> i64 {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = if negative { i64::from(field[0] as i8) } else { i64::from(field[0] & 0x3f) };
        return field[1..].iter().fold(first, |value, byte| value << 8 | i64::from(*byte));
    }
    let digits: String = text(until_nul(field)).trim().to_owned();
    if digits.is_empty() { 0 } else { i64::from_str_radix(&digits, 8).expect("an octal number") }
}

/// A decimal number of seconds, possibly negative, possibly with a fraction.
fn time(decimal: &str) -> Time {
    let (negative, decimal) = decimal.strip_prefix('-').map_or((false, decimal), |rest| (true, rest));
    let (secs, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    let nanos: i128 = format!("{fraction:0<9}")[..9].parse().expect("digits after the point");
    let total = secs.parse::<i128>().expect("a number of seconds") * 1_000_000_000 + nanos;
    let total = if negative { -total } else { total };
    let secs = total.div_euclid(1_000_000_000).try_into().expect("a time within 64 bits of seconds");
    Time { secs, nanos: total.rem_euclid(1_000_000_000) as u32 }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
