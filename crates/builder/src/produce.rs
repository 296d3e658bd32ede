//! From the spooled archive to the new one, member by member.

use std::sync::Arc;

use format::digest::{Algorithm, Hasher};
use format::{Digest, FileRanges};

use crate::error::BuildError;
use crate::index::{Id, Index, Order, rename};
use crate::names::{NO_PREFETCH_LANDMARK, PREFETCH_LANDMARK};
use crate::pack::{Batch, Item, Packer, Payload};
use crate::spool::{Spool, SpoolReader};
use crate::tar::{Kind, Member, Records, Region, Scanner, encode, padding};

/// A landmark's content.
const LANDMARK: [u8; 1] = [0x0f];
/// How much of the archive is copied at a time.
const COPY: u64 = 1 << 20;

/// Reads the source archive in the order of the new one.
pub(crate) struct Producer<'a> {
    spool: &'a Spool,
    index: &'a Index,
    reader: SpoolReader<'a>,
    chunk_size: u64,
    header: Vec<u8>,
}

impl<'a> Producer<'a> {
    pub fn new(spool: &'a Spool, index: &'a Index, chunk_size: u32) -> Producer<'a> {
        let reader = spool.reader();
        Producer { spool, index, reader, chunk_size: chunk_size.into(), header: Vec::new() }
    }

    /// Writes the members in this order, with a landmark, and headers made anew.
    pub fn rewrite<F>(mut self, order: &Order, wanted: bool, packer: &mut Packer<F>) -> Result<(), BuildError>
    where
        F: FnMut(Batch) -> Result<(), BuildError>,
    {
        let (first, rest) = order.ids.split_at(order.prioritized);
        for id in first {
            self.rewrite_member(*id, order, packer)?;
        }
        let name = if wanted { PREFETCH_LANDMARK } else { NO_PREFETCH_LANDMARK };
        let landmark = Member { size: LANDMARK.len() as u64, ..Member::new(Kind::File, name) };
        self.headers(&landmark, packer)?;
        packer.item(Item::File(Box::new(landmark), FileRanges::NONE));
        let payload = Payload { file_offset: 0, size: LANDMARK.len(), alone: true };
        packer.payload(payload, |place| {
            place.copy_from_slice(&LANDMARK);
            Ok(Some(None))
        })?;
        self.pad(LANDMARK.len() as u64, packer)?;
        for id in rest {
            self.rewrite_member(*id, order, packer)?;
        }
        Ok(())
    }

    /// Writes every byte of the archive where it was.
    pub fn copy<F>(mut self, order: &Order, packer: &mut Packer<F>) -> Result<(), BuildError>
    where
        F: FnMut(Batch) -> Result<(), BuildError>,
    {
        let mut at = 0;
        for id in self.index.ids() {
            // What the layer does not show is copied with what is between the contents.
            let Some(shown) = self.index.shown_as(id) else { continue };
            let member = self.member(shown)?;
            if member.size == 0 {
                packer.item(Item::Plain(Box::new(member)));
                continue;
            }
            let (content_at, size) = (member.content_at, member.size);
            self.copy_filler(at, content_at, packer)?;
            self.content(member, order.ranges_of(shown), packer)?;
            at = content_at + size;
        }
        self.copy_filler(at, self.spool.size, packer)
    }

    fn rewrite_member<F>(&mut self, id: Id, order: &Order, packer: &mut Packer<F>) -> Result<(), BuildError>
    where
        F: FnMut(Batch) -> Result<(), BuildError>,
    {
        let member = self.member(id)?;
        self.headers(&member, packer)?;
        if member.size == 0 {
            packer.item(Item::Plain(Box::new(member)));
            return Ok(());
        }
        let size = member.size;
        self.content(member, order.ranges_of(id), packer)?;
        self.pad(size, packer)
    }

    /// A live member as the new layer has it.
    fn member(&mut self, id: Id) -> Result<Member, BuildError> {
        let own = self.read(id)?;
        let source = self.index.source(id);
        let mut member = if source == id { own.clone() } else { self.read(source)? };
        rename(self.index, id, &own, &mut member);
        Ok(member)
    }

    /// A member as the archive has it.
    fn read(&mut self, id: Id) -> Result<Member, BuildError> {
        let (at, globals): (u64, Arc<Records>) = self.index.place(id);
        self.reader.seek(at);
        let mut scanner = Scanner::resume(&mut self.reader, at, globals);
        let member =
            scanner.next_member().map_err(|error| BuildError::scan(error, |io| self.spool.error(io)))?;
        // It was there when the index was made.
        member.ok_or_else(|| self.spool.error(std::io::ErrorKind::UnexpectedEof.into()))
    }

    fn headers<F>(&mut self, member: &Member, packer: &mut Packer<F>) -> Result<(), BuildError>
    where
        F: FnMut(Batch) -> Result<(), BuildError>,
    {
        self.header.clear();
        encode(member, &mut self.header);
        packer.filler(&self.header)
    }

    fn pad<F>(&self, size: u64, packer: &mut Packer<F>) -> Result<(), BuildError>
    where
        F: FnMut(Batch) -> Result<(), BuildError>,
    {
        packer.filler(&[0; crate::tar::BLOCK][..padding(size)])
    }

    /// The content of a file, chunk by chunk.
    fn content<F>(
        &mut self,
        member: Member,
        ranges: &FileRanges,
        packer: &mut Packer<F>,
    ) -> Result<(), BuildError>
    where
        F: FnMut(Batch) -> Result<(), BuildError>,
    {
        let size = member.size;
        let content = Content::new(&member);
        packer.item(Item::File(Box::new(member), ranges.within(size)));
        // A file of one chunk has the digest of that chunk.
        let mut hasher = (size > self.chunk_size).then(|| Hasher::new(Algorithm::Sha256));
        let mut file_offset = 0;
        while file_offset < size {
            let length = self.chunk_size.min(size - file_offset);
            let last = file_offset + length == size;
            let payload = Payload { file_offset, size: length as usize, alone: false };
            packer.payload(payload, |place| {
                content.read(self.spool, file_offset, place)?;
                if let Some(hasher) = &mut hasher {
                    hasher.update(place);
                }
                let digest: Option<Digest> = if last { hasher.take().map(Hasher::finish) } else { None };
                Ok(last.then_some(digest))
            })?;
            file_offset += length;
        }
        Ok(())
    }

    fn copy_filler<F>(&self, start: u64, end: u64, packer: &mut Packer<F>) -> Result<(), BuildError>
    where
        F: FnMut(Batch) -> Result<(), BuildError>,
    {
        let (mut at, mut buffer) = (start, Vec::new());
        while at < end {
            buffer.resize(COPY.min(end - at) as usize, 0);
            self.spool.read_exact_at(&mut buffer, at)?;
            packer.filler(&buffer)?;
            at += buffer.len() as u64;
        }
        Ok(())
    }
}

/// Where the content of a file is in the archive.
struct Content {
    at: u64,
    /// Of a sparse file: its regions, and where each is stored.
    regions: Option<Vec<(Region, u64)>>,
}

impl Content {
    fn new(member: &Member) -> Content {
        let mut at = member.content_at;
        let place = |region: &Region| {
            let start = at;
            at += region.size;
            (*region, start)
        };
        let regions = member.sparse.as_ref().map(|regions| regions.iter().map(place).collect());
        Content { at: member.content_at, regions }
    }

    /// Fills `place`, which is zero, with the content from byte `offset` of the file on.
    fn read(&self, spool: &Spool, offset: u64, place: &mut [u8]) -> Result<(), BuildError> {
        let Some(regions) = &self.regions else { return spool.read_exact_at(place, self.at + offset) };
        let end = offset + place.len() as u64;
        let first = regions.partition_point(|(region, _)| region.offset + region.size <= offset);
        for (region, stored_at) in regions[first..].iter().take_while(|(region, _)| region.offset < end) {
            let from = region.offset.max(offset);
            let to = (region.offset + region.size).min(end);
            if from < to {
                let part = &mut place[(from - offset) as usize..(to - offset) as usize];
                spool.read_exact_at(part, stored_at + (from - region.offset))?;
            }
        }
        Ok(())
    }
}
