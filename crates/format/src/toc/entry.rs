//! One item of the `entries` array, as JSON has it: syntax only, nothing is believed yet.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::digest::Digest;
use crate::ranges::FileRanges;
use crate::timestamp::Timestamp;

/// The fields of an entry that mean something to a reader; all others are ignored.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Entry {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: Text<EntryKind>,
    pub size: i64,
    #[serde(rename = "modtime")]
    pub mtime: Text<Timestamp>,
    pub link_name: String,
    pub mode: i64,
    pub uid: i64,
    pub gid: i64,
    pub offset: i64,
    pub inner_offset: i64,
    pub dev_major: i64,
    pub dev_minor: i64,
    /// Base64 values; `null` is what Go writes for an empty one.
    pub xattrs: Option<BTreeMap<String, Option<String>>>,
    pub digest: Text<Digest>,
    pub chunk_offset: i64,
    pub chunk_size: i64,
    pub chunk_digest: Text<Digest>,
    pub chunk_type: Text<ChunkType>,
    /// Ours: of a file behind the landmark, what is wanted of it anyway.
    pub prefetch_ranges: Text<FileRanges>,
}

/// What the bytes of a chunk are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChunkType {
    /// All zero, whatever the blob has there.
    Zeros,
}

impl FromStr for ChunkType {
    type Err = ();

    fn from_str(text: &str) -> Result<ChunkType, ()> {
        if text == "zeros" { Ok(ChunkType::Zeros) } else { Err(()) }
    }
}

/// The type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    Dir,
    Reg,
    Symlink,
    Hardlink,
    Char,
    Block,
    Fifo,
    /// A further chunk of the `reg` entry before it.
    Chunk,
}

impl FromStr for EntryKind {
    type Err = ();

    fn from_str(text: &str) -> Result<EntryKind, ()> {
        Ok(match text {
            "dir" => EntryKind::Dir,
            "reg" => EntryKind::Reg,
            "symlink" => EntryKind::Symlink,
            "hardlink" => EntryKind::Hardlink,
            "char" => EntryKind::Char,
            "block" => EntryKind::Block,
            "fifo" => EntryKind::Fifo,
            "chunk" => EntryKind::Chunk,
            _ => return Err(()),
        })
    }
}

/// A JSON string that stands for a `T`. Parsed in place, so that only a wrong one is copied, for the error message
/// that can name the entry.
#[derive(Debug, Default)]
pub(super) enum Text<T> {
    /// No such field, `null` or the empty string.
    #[default]
    Absent,
    Parsed(T),
    Wrong(String),
}

impl<'de, T: FromStr> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<T>, D::Error> {
        deserializer.deserialize_any(TextVisitor(PhantomData))
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: FromStr> Visitor<'_> for TextVisitor<T> {
    type Value = Text<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Text<T>, E> {
        Ok(Text::Absent)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<T>, E> {
        if text.is_empty() {
            return Ok(Text::Absent);
        }
        Ok(text.parse().map_or_else(|_| Text::Wrong(text.to_owned()), Text::Parsed))
    }
}
