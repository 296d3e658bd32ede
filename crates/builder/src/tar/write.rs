//! Headers as they are written: ustar, and a pax header in front where ustar has no room.

use super::header::{
    CHECKSUM, GID, GROUP, LINK, MAGIC, MAJOR, MINOR, MODE, MTIME, NAME, PREFIX, SIZE, TYPE, UID, USER,
};
use super::pax::{Records, push_record};
use super::{BLOCK, Kind, Member};
use format::Timestamp;
use std::ops::Range;

/// Appends the headers of a member with `size` bytes of content behind them.
pub(crate) fn encode(member: &Member, out: &mut Vec<u8>) {
    let (block, records) = ustar(member);
    if !records.is_empty() {
        let mut data = Vec::new();
        for (key, value) in records.iter() {
            push_record(&mut data, key, value);
        }
        let mut extended = Member::new(Kind::File, b"");
        extended.size = data.len() as u64;
        extended.mode = 0o644;
        let (mut header, _) = ustar(&extended);
        header[TYPE] = b'x';
        put(&mut header[NAME], &pax_name(&member.name));
        finish(&mut header);
        out.extend_from_slice(&header);
        out.extend_from_slice(&data);
        out.resize(out.len() + padding(data.len() as u64), 0);
    }
    out.extend_from_slice(&block);
}

/// The header of a file of `size` bytes that is readable by all and says nothing else, for archives of other things than
/// layers.
pub fn file_header(name: &str, size: u64) -> Vec<u8> {
    let mut member = Member::new(Kind::File, name.as_bytes());
    (member.size, member.mode) = (size, 0o644);
    let mut header = Vec::new();
    encode(&member, &mut header);
    header
}

/// How many zeros follow a content of this size in bytes.
pub fn padding_after(size: u64) -> usize {
    padding(size)
}

/// How many zeros follow a content of this size.
pub(crate) fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK as u64) as usize
}

/// What readers that do not know pax make a file of. By convention beside the member, and short.
fn pax_name(name: &[u8]) -> Vec<u8> {
    let last = name.split(|byte| *byte == b'/').rfind(|part| !part.is_empty()).unwrap_or_default();
    let ascii: Vec<u8> = last.iter().copied().filter(u8::is_ascii_graphic).take(80).collect();
    [b"PaxHeaders.0/", ascii.as_slice()].concat()
}

/// The header, and the records for what it cannot say.
fn ustar(member: &Member) -> ([u8; BLOCK], Records) {
    let mut block = [0; BLOCK];
    let mut records = member.records.clone();
    name(member, &mut block, &mut records);
    text(&mut block[LINK], "linkpath", &member.link, &mut records);
    text(&mut block[USER], "uname", &member.user, &mut records);
    text(&mut block[GROUP], "gname", &member.group, &mut records);
    octal(&mut block[MODE], member.mode.into());
    signed(&mut block, UID, "uid", member.uid, &mut records);
    signed(&mut block, GID, "gid", member.gid, &mut records);
    if !octal(&mut block[SIZE], member.size) {
        records.insert(b"size", member.size.to_string().into_bytes());
    }
    let whole = u64::try_from(member.mtime.secs).is_ok_and(|secs| octal(&mut block[MTIME], secs));
    if !whole || member.mtime.nanos != 0 {
        if !whole {
            octal(&mut block[MTIME], 0);
        }
        records.insert(b"mtime", decimal(member.mtime).into_bytes());
    }
    block[TYPE] = match member.kind {
        Kind::File => b'0',
        Kind::Hardlink => b'1',
        Kind::Symlink => b'2',
        Kind::Char => b'3',
        Kind::Block => b'4',
        Kind::Dir => b'5',
        Kind::Fifo => b'6',
    };
    put(&mut block[MAGIC], b"ustar\x0000");
    octal(&mut block[MAJOR], member.major.into());
    octal(&mut block[MINOR], member.minor.into());
    finish(&mut block);
    (block, records)
}

/// The checksum is that of the header with spaces in its place.
fn finish(block: &mut [u8; BLOCK]) {
    block[CHECKSUM].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[CHECKSUM.start..CHECKSUM.end - 1], sum);
}

/// The name in its field, or parted at a slash into the prefix field and it, or in a record.
fn name(member: &Member, block: &mut [u8; BLOCK], records: &mut Records) {
    let name = member.name.as_slice();
    if name.is_ascii() && name.len() > NAME.len() {
        let parting = name.iter().enumerate().find(|(position, byte)| {
            let rest = name.len() - position - 1;
            **byte == b'/' && *position > 0 && *position <= PREFIX.len() && (1..=NAME.len()).contains(&rest)
        });
        if let Some((position, _)) = parting {
            put(&mut block[PREFIX], &name[..position]);
            put(&mut block[NAME], &name[position + 1..]);
            return;
        }
    }
    text(&mut block[NAME], "path", name, records);
}

/// A text in its field, or a record and what fits of it.
fn text(field: &mut [u8], key: &str, value: &[u8], records: &mut Records) {
    if value.len() > field.len() || !value.is_ascii() {
        records.insert(key.as_bytes(), value.to_vec());
    }
    let ascii: Vec<u8> = value.iter().copied().filter(u8::is_ascii).take(field.len()).collect();
    put(field, &ascii);
}

fn signed(block: &mut [u8; BLOCK], field: Range<usize>, key: &str, value: i64, records: &mut Records) {
    if !u64::try_from(value).is_ok_and(|value| octal(&mut block[field.clone()], value)) {
        octal(&mut block[field], 0);
        records.insert(key.as_bytes(), value.to_string().into_bytes());
    }
}

fn put(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// Octal digits and a NUL; `false` and zero when the number has too many.
fn octal(field: &mut [u8], value: u64) -> bool {
    let width = field.len() - 1;
    let fits = value < 1 << (3 * width);
    let value = if fits { value } else { 0 };
    put(field, format!("{value:0width$o}").as_bytes());
    field[width] = 0;
    fits
}

/// A number of seconds with a sign and a fraction.
fn decimal(time: Timestamp) -> String {
    let total = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    let sign = if total < 0 { "-" } else { "" };
    let (secs, nanos) = (total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
    let fraction = format!("{nanos:09}");
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{secs}"),
        fraction => format!("{sign}{secs}.{fraction}"),
    }
}
