//! What of a member's attributes a layer can have.

use crate::error::{EntryProblem, excerpt};
use crate::names;
use crate::tar::{Kind, Member};

/// Bits of a device number that Linux has for its two parts.
const MAJOR_BITS: u32 = 12;
const MINOR_BITS: u32 = 20;
/// Longest name of an extended attribute (XATTR_NAME_MAX).
const XATTR_NAME_MAX: usize = 255;
/// Largest value of an extended attribute (XATTR_SIZE_MAX).
const XATTR_VALUE_MAX: usize = 64 << 10;

/// Checks that the TOC can hold a member, and that Linux can have it.
pub(crate) fn check(member: &Member) -> Result<(), EntryProblem> {
    names::check("the name", &member.name)?;
    match member.kind {
        Kind::Hardlink => names::check("the target of the link", &member.link)?,
        Kind::Symlink => symlink(&member.link)?,
        Kind::Char | Kind::Block => {
            device("major", member.major, MAJOR_BITS)?;
            device("minor", member.minor, MINOR_BITS)?;
        }
        Kind::File | Kind::Dir | Kind::Fifo => {}
    }
    owner("uid", member.uid)?;
    owner("gid", member.gid)?;
    member.xattrs().try_for_each(|(name, value)| xattr(name, value))
}

fn symlink(target: &[u8]) -> Result<(), EntryProblem> {
    if std::str::from_utf8(target).is_err() {
        return Err(EntryProblem::NotUtf8("the target of the link"));
    }
    if target.is_empty() || target.len() > 4095 || target.contains(&0) {
        return Err(EntryProblem::Name(
            "the target of the link is empty, longer than 4095 bytes or contains a NUL byte",
        ));
    }
    Ok(())
}

fn device(field: &'static str, value: u32, bits: u32) -> Result<(), EntryProblem> {
    if value < 1 << bits { Ok(()) } else { Err(EntryProblem::OutOfRange { field, value: value.into() }) }
}

/// The largest 32-bit number means "no change" to chown(2), so nobody has it.
fn owner(field: &'static str, value: i64) -> Result<(), EntryProblem> {
    match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(()),
        _ => Err(EntryProblem::OutOfRange { field, value }),
    }
}

fn xattr(name: &[u8], value: &[u8]) -> Result<(), EntryProblem> {
    let reason = if name.is_empty() || name.len() > XATTR_NAME_MAX || std::str::from_utf8(name).is_err() {
        "its name is empty, longer than 255 bytes or not UTF-8"
    } else if value.len() > XATTR_VALUE_MAX {
        "its value is longer than 64 KiB"
    } else {
        return Ok(());
    };
    Err(EntryProblem::Xattr { name: excerpt(name), reason })
}
