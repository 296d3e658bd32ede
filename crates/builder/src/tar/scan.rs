//! From a stream to members.

use std::io::{self, Read};
use std::sync::Arc;

use format::Timestamp;

use super::error::{ScanError, TarProblem};
use super::header::{self, Header, until_nul};
use super::pax::{self, Parsed, Records};
use super::sparse::{self, Encoding, Map, PaxSparse};
use super::{BLOCK, Kind, Member};

/// Extended headers hold names (4 KiB at most) and extended attributes (64 KiB each at most). Go's reader has the
/// same limit.
const EXTENDED_MAX: u64 = 1 << 20;
/// How much of a content is read at a time when it is passed over.
const SCRATCH: usize = 64 << 10;

/// Reads the members of an archive one after the other.
///
/// Holds one member's headers at a time, each of bounded size, whatever the archive claims.
#[derive(Debug)]
pub struct Scanner<R> {
    source: R,
    at: u64,
    /// What is left of the last member, to be passed over before the next.
    content: u64,
    padding: u64,
    globals: Arc<Records>,
    scratch: Vec<u8>,
}

/// Headers that extend the next member.
#[derive(Default)]
struct Extended {
    records: Parsed,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    any: bool,
}

impl<R: Read> Scanner<R> {
    /// Reads an archive from its start.
    pub fn new(source: R) -> Scanner<R> {
        Scanner::resume(source, 0, Arc::default())
    }

    /// Reads on at a member's first header, byte `at` of the archive, where these global records are in force.
    pub(crate) fn resume(source: R, at: u64, globals: Arc<Records>) -> Scanner<R> {
        Scanner { source, at, content: 0, padding: 0, globals, scratch: Vec::new() }
    }

    /// The next member; `None` when the archive ends. Its content is passed over by the next call.
    ///
    /// # Errors
    /// When reading fails, or the archive is not valid. There is no going on after that.
    pub fn next_member(&mut self) -> Result<Option<Member>, ScanError> {
        self.pass_over_content()?;
        let header_at = self.at;
        let mut extended = Extended::default();
        loop {
            let start = self.at;
            let Some(block) = self.header_block()? else {
                return if extended.any { Err(problem(start, TarProblem::DanglingHeader)) } else { Ok(None) };
            };
            let header = Header::new(&block).map_err(|error| problem(start, error))?;
            match header.flag() {
                b'x' | b'X' => {
                    let data = self.extended_header(header, start)?;
                    extended.records = Parsed::new(&data).map_err(|error| problem(start, error))?;
                }
                b'g' => {
                    let data = self.extended_header(header, start)?;
                    self.apply_globals(&data).map_err(|error| problem(start, error))?;
                    continue;
                }
                b'L' => extended.name = Some(until_nul(&self.extended_header(header, start)?).to_vec()),
                b'K' => extended.link = Some(until_nul(&self.extended_header(header, start)?).to_vec()),
                _ => return self.member(header, extended, header_at, start).map(Some),
            }
            extended.any = true;
        }
    }

    /// How many bytes of the archive were read.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The global records in force.
    pub(crate) fn globals(&self) -> &Arc<Records> {
        &self.globals
    }

    /// The stream, where the last call left it.
    pub fn into_inner(self) -> R {
        self.source
    }

    /// The next header, or `None` at the end of the archive: the end of the stream, or two blocks of zeros.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, ScanError> {
        let start = self.at;
        let Some(block) = self.block("a header")? else { return Ok(None) };
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        match self.block("the zeros at its end")? {
            Some(next) if next != [0; BLOCK] => Err(problem(start, TarProblem::LoneZeroBlock)),
            _ => Ok(None),
        }
    }

    /// The next block, or `None` when the stream ends in front of it.
    fn block(&mut self, what: &'static str) -> Result<Option<[u8; BLOCK]>, ScanError> {
        let mut block = [0; BLOCK];
        let got = read_up_to(&mut self.source, &mut block)?;
        let start = self.at;
        self.at += got as u64;
        match got {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(problem(start, TarProblem::Truncated(what))),
        }
    }

    /// The content of an extended header.
    fn extended_header(&mut self, header: Header<'_>, start: u64) -> Result<Vec<u8>, ScanError> {
        let size = header.size().map_err(|error| problem(start, error))?;
        if size > EXTENDED_MAX {
            return Err(problem(start, TarProblem::HeaderSize { size, limit: EXTENDED_MAX }));
        }
        let mut data = vec![0; (size as usize).next_multiple_of(BLOCK)];
        let got = read_up_to(&mut self.source, &mut data)?;
        self.at += got as u64;
        if got < data.len() {
            return Err(problem(start, TarProblem::Truncated("an extended header")));
        }
        data.truncate(size as usize);
        Ok(data)
    }

    fn apply_globals(&mut self, data: &[u8]) -> Result<(), TarProblem> {
        let mut records = Parsed::new(data)?;
        // A comment is about the archive, not about each of its members.
        records.0.retain(|(key, _)| key != b"comment");
        let globals = Arc::make_mut(&mut self.globals);
        globals.apply(records);
        match globals.bytes() as u64 {
            size if size > EXTENDED_MAX => Err(TarProblem::HeaderSize { size, limit: EXTENDED_MAX }),
            _ => Ok(()),
        }
    }

    fn member(
        &mut self,
        header: Header<'_>,
        extended: Extended,
        header_at: u64,
        start: u64,
    ) -> Result<Member, ScanError> {
        let at = |error| problem(start, error);
        let sparse = PaxSparse::new(&extended.records).map_err(at)?;
        let mut records = (*self.globals).clone();
        records.apply(extended.records);
        let mut member = basic(header).map_err(at)?;
        let size = overlay(&mut member, records).map_err(at)?;
        if let Some(name) = &sparse.name {
            member.name.clone_from(name);
        }
        // As in Go's reader, GNU's long names are the last word.
        member.name = extended.name.unwrap_or(member.name);
        member.link = extended.link.unwrap_or(member.link);
        member.header_at = header_at;
        if member.kind == Kind::File {
            member.stored = size.map_or_else(|| header.size(), Ok).map_err(at)?;
            member.size = member.stored;
            self.padding = padding_of(member.stored);
            self.sparse(header, sparse, &mut member, start)?;
            self.content = member.stored;
        }
        member.content_at = self.at;
        Ok(member)
    }

    /// Reads the map of a sparse file, wherever it is.
    fn sparse(
        &mut self,
        header: Header<'_>,
        sparse: PaxSparse,
        member: &mut Member,
        start: u64,
    ) -> Result<(), ScanError> {
        let at = |error| problem(start, error);
        let map = if header.flag() == b'S' {
            let Scanner { source, at: position, .. } = self;
            let next = || {
                let mut block = [0; BLOCK];
                read_block(source, &mut block, "a sparse map", &at)?;
                *position += BLOCK as u64;
                Ok(block)
            };
            sparse::old_gnu(header.0, next, at)?
        } else {
            match sparse.encoding().map_err(at)? {
                None => return Ok(()),
                Some(Encoding::Header(map)) => map,
                Some(Encoding::Content(size)) => {
                    let (regions, used) = sparse::in_content(&mut self.source, member.stored, at)?;
                    self.at += used;
                    member.stored -= used;
                    Map { regions, size }
                }
            }
        };
        let map = map.check(member.stored).map_err(at)?;
        member.size = map.size;
        member.sparse = Some(map.regions);
        Ok(())
    }

    /// Reads what is left of the last member. Its padding may be missing when it is the last one.
    fn pass_over_content(&mut self) -> Result<(), ScanError> {
        if self.content + self.padding == 0 {
            return Ok(());
        }
        self.scratch.resize(SCRATCH, 0);
        while self.content > 0 {
            let piece = self.content.min(SCRATCH as u64) as usize;
            let got = read_up_to(&mut self.source, &mut self.scratch[..piece])?;
            (self.at, self.content) = (self.at + got as u64, self.content - got as u64);
            if got < piece {
                return Err(problem(self.at, TarProblem::Truncated("the content of a file")));
            }
        }
        let padding = std::mem::take(&mut self.padding) as usize;
        self.at += read_up_to(&mut self.source, &mut self.scratch[..padding])? as u64;
        Ok(())
    }
}

/// What the header alone says.
fn basic(header: Header<'_>) -> Result<Member, TarProblem> {
    let name = header.name();
    let kind = match header.flag() {
        // Before there was a type for directories, they were known by their names.
        0 if name.ends_with(b"/") => Kind::Dir,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::Hardlink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Char,
        b'4' => Kind::Block,
        b'5' => Kind::Dir,
        b'6' => Kind::Fifo,
        flag => return Err(TarProblem::Type(flag)),
    };
    let mut member = Member::new(kind, &name);
    if matches!(kind, Kind::Hardlink | Kind::Symlink) {
        member.link = header.link();
    }
    member.mode = (header.number(header::MODE, "mode")? & 0o7777) as u32;
    member.uid = header.number(header::UID, "uid")?;
    member.gid = header.number(header::GID, "gid")?;
    member.user = header.text(header::USER);
    member.group = header.text(header::GROUP);
    member.mtime = Timestamp { secs: header.number(header::MTIME, "mtime")?, nanos: 0 };
    if matches!(kind, Kind::Char | Kind::Block) {
        member.major = header.device(header::MAJOR, "devmajor")?;
        member.minor = header.device(header::MINOR, "devminor")?;
    }
    Ok(member)
}

/// Puts what pax records say over what the header says. Returns the size, which is for regular files only.
fn overlay(member: &mut Member, mut records: Records) -> Result<Option<u64>, TarProblem> {
    if let Some(name) = records.take(b"path") {
        member.name = name;
    }
    if let Some(link) = records.take(b"linkpath")
        && matches!(member.kind, Kind::Hardlink | Kind::Symlink)
    {
        member.link = link;
    }
    if let Some(user) = records.take(b"uname") {
        member.user = user;
    }
    if let Some(group) = records.take(b"gname") {
        member.group = group;
    }
    if let Some(uid) = records.take(b"uid") {
        member.uid = pax::signed(&uid).ok_or(TarProblem::Pax("uid is not a number"))?;
    }
    if let Some(gid) = records.take(b"gid") {
        member.gid = pax::signed(&gid).ok_or(TarProblem::Pax("gid is not a number"))?;
    }
    if let Some(mtime) = records.take(b"mtime") {
        member.mtime = pax::time(&mtime).ok_or(TarProblem::Pax("mtime is not a number of seconds"))?;
    }
    let size = records.take(b"size").map(|size| pax::decimal(&size));
    // Names are taken as bytes in any case, so what they are encoded in has no meaning here.
    records.retain(|key| key != b"hdrcharset" && !key.starts_with(b"GNU.sparse."));
    member.records = records;
    match size {
        Some(None) => Err(TarProblem::Pax("size is not a number")),
        size => Ok(size.flatten()),
    }
}

fn padding_of(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn problem(offset: u64, problem: TarProblem) -> ScanError {
    ScanError::Tar { offset, problem }
}

/// Reads a whole block.
pub(super) fn read_block(
    source: &mut impl Read,
    block: &mut [u8; BLOCK],
    what: &'static str,
    at: &impl Fn(TarProblem) -> ScanError,
) -> Result<(), ScanError> {
    match read_up_to(source, block)? {
        BLOCK => Ok(()),
        _ => Err(at(TarProblem::Truncated(what))),
    }
}

/// Fills `buffer` as far as the stream goes.
fn read_up_to(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
