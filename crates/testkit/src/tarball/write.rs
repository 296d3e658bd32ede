//! Members to archive bytes.

use std::io::Write as _;

use super::{Member, Type};
use crate::tree::Time;

/// Headers and contents are padded to this many bytes.
pub(super) const BLOCK: usize = 512;

/// The archive of these members in this order, with the two zero blocks that end it.
pub fn archive(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::new();
    for member in members {
        out.extend_from_slice(&header(member));
        out.extend_from_slice(&member.content);
        pad(&mut out);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

/// The zero bytes that follow a content of this length.
pub(crate) fn padding(len: usize) -> &'static [u8] {
    &[0; BLOCK][..len.next_multiple_of(BLOCK) - len]
}

/// Zero bytes up to the next block.
fn pad(out: &mut Vec<u8>) {
    out.extend_from_slice(padding(out.len()));
}

/// The header blocks of a member: a PAX one if it needs it, and the ustar one.
pub(crate) fn header(member: &Member) -> Vec<u8> {
    header_of_size(member, member.content.len() as u64)
}

/// The header blocks of a member that claims this much content.
pub(crate) fn header_of_size(member: &Member, size: u64) -> Vec<u8> {
    let records = pax_records(member, size);
    let mut out = Vec::new();
    if !records.is_empty() {
        let extended = Member { content: records.into(), ..Member::new(Type::File, "pax") };
        out.extend_from_slice(&ustar(&extended, extended.content.len() as u64, b'x'));
        out.extend_from_slice(&extended.content);
        pad(&mut out);
    }
    let flag = match member.kind {
        Type::File => b'0',
        Type::Hardlink => b'1',
        Type::Symlink => b'2',
        Type::Char => b'3',
        Type::Block => b'4',
        Type::Dir => b'5',
        Type::Fifo => b'6',
    };
    out.extend_from_slice(&ustar(member, size, flag));
    out
}

/// What does not fit into the ustar header of `member`, as PAX records.
fn pax_records(member: &Member, size: u64) -> Vec<u8> {
    let mut records = Vec::new();
    if needs_record(&member.name) {
        push_record(&mut records, b"path", &member.name);
    }
    if needs_record(&member.link) {
        push_record(&mut records, b"linkpath", &member.link);
    }
    for (key, id) in [("uid", member.uid), ("gid", member.gid)] {
        if !fits(id.into(), 8) {
            push_record(&mut records, key.as_bytes(), id.to_string().as_bytes());
        }
    }
    if !fits(size, 12) {
        push_record(&mut records, b"size", size.to_string().as_bytes());
    }
    if member.mtime.nanos != 0 || u64::try_from(member.mtime.secs).map_or(true, |secs| !fits(secs, 12)) {
        push_record(&mut records, b"mtime", decimal(member.mtime).as_bytes());
    }
    for (name, value) in &member.xattrs {
        push_record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    records
}

/// ustar names are at most 100 bytes here (the prefix field is not used), and ASCII by the letter of the standard.
fn needs_record(name: &[u8]) -> bool {
    name.len() > 100 || !name.is_ascii()
}

/// Whether `value` fits in an octal field of this many bytes, one of which ends it.
fn fits(value: u64, width: usize) -> bool {
    value < 1 << (3 * (width - 1))
}

/// Appends `LEN KEY=VALUE\n`, where LEN counts its own digits.
fn push_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    write!(records, "{len} ").expect("writing to a Vec cannot fail");
    records.extend_from_slice(&[key, b"=", value, b"\n"].concat());
}

/// A time as PAX writes it: a decimal number of seconds. -1 s and 750,000,000 ns is `-0.25`.
fn decimal(time: Time) -> String {
    let total = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    let sign = if total < 0 { "-" } else { "" };
    let (secs, nanos) = (total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
    if nanos == 0 { format!("{sign}{secs}") } else { format!("{sign}{secs}.{nanos:09}") }
}

fn ustar(member: &Member, size: u64, flag: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    put(&mut block[..100], &member.name);
    octal(&mut block[100..108], member.mode.into());
    octal(&mut block[108..116], member.uid.into());
    octal(&mut block[116..124], member.gid.into());
    octal(&mut block[124..136], size);
    octal(&mut block[136..148], member.mtime.secs.try_into().unwrap_or(0));
    block[148..156].fill(b' ');
    block[156] = flag;
    put(&mut block[157..257], &member.link);
    put(&mut block[257..265], b"ustar\x0000");
    put(&mut block[265..297], member.user.as_bytes());
    put(&mut block[297..329], member.group.as_bytes());
    octal(&mut block[329..337], member.device.major.into());
    octal(&mut block[337..345], member.device.minor.into());
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

/// As much of `text` as fits; a PAX record has the rest.
fn put(field: &mut [u8], text: &[u8]) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
}

/// Octal digits and a NUL; 0 when the number does not fit, as then a PAX record has it.
fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    let value = if fits(value, field.len()) { value } else { 0 };
    put(field, format!("{value:0width$o}").as_bytes());
}
