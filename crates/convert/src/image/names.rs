//! In which layer each of the files is that are to come first.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{self, BufReader, Cursor, Read};

use builder::BuildError;
use builder::tar::{Kind, ScanError, Scanner};
use format::{Compression, Digest, FileRanges, StreamDecoder};

use super::plan::{Content, Job, Jobs, Plan};
use super::{ConvertError, Options, Step, Task};
use crate::list::Pattern;
use crate::media;
use crate::source::Verified;

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const BUFFER: usize = 256 << 10;
const OPAQUE: &[u8] = b".wh..wh..opq";
const WHITEOUT: &[u8] = b".wh.";

/// The files that are looked for, by the numbers of [`Wanted::paths`].
struct Wanted {
    /// Normal names, in the order of importance.
    paths: Vec<String>,
    /// The number of each path.
    numbers: HashMap<Vec<u8>, usize>,
    /// What is below each directory that has wanted files.
    below: HashMap<Vec<u8>, Vec<usize>>,
}

/// What a layer does to the wanted files.
#[derive(Debug, Default)]
struct Seen {
    present: HashSet<usize>,
    /// Of lower layers, this one hides them.
    hidden: HashSet<usize>,
}

impl Task<'_> {
    /// Finds the topmost layer that has each prioritized file, and gives it to the layer's job. Returns what no image has.
    pub(super) fn assign_prioritized(&self, plan: &mut Plan) -> Result<Vec<String>, ConvertError> {
        let Options { prioritized, ranges, .. } = self.options;
        if prioritized.is_empty() && ranges.is_empty() {
            return Ok(Vec::new());
        }
        let layers: Vec<&Job> =
            plan.jobs.iter().filter(|job| job.layer && media::is_layer(&job.blob.media_type)).collect();
        let (paths, mut unmatched) = self.expand(&layers)?;
        let wanted = Wanted::new(paths.iter().chain(ranges.keys()));
        if wanted.paths.is_empty() {
            return Ok(unmatched);
        }
        let first = Wanted::new(&paths).paths.len();
        // By the number of the path; several ways to write it mean the same file.
        let mut parts: HashMap<usize, FileRanges> = HashMap::new();
        for (path, ranges) in ranges {
            if let Some(&number) = wanted.numbers.get(&normal(path.as_bytes())) {
                let all = parts.entry(number).or_default();
                *all = all.union(ranges);
            }
        }
        let look = |job: &&Job| {
            let mut seen = Seen::default();
            self.look(job, &mut |name, kind| wanted.note(name, kind, &mut seen)).map(|()| seen)
        };
        let seen = self.in_parallel(&layers, look)?;
        let seen: HashMap<Digest, Seen> = layers.iter().map(|job| job.blob.digest).zip(seen).collect();

        let mut jobs = Jobs::default();
        let mut found = HashSet::new();
        let old = std::mem::take(&mut plan.jobs);
        plan.root.each(&mut |node| match &mut node.content {
            Content::Index(_) => {}
            Content::Other(numbers) => {
                numbers.iter_mut().for_each(|number| *number = jobs.add(old[*number].clone()));
            }
            Content::Image(image) => {
                let mut assigned = vec![(Vec::new(), BTreeMap::new()); image.layers.len()];
                for number in 0..wanted.paths.len() {
                    let layer = image.layers.iter().enumerate().rev().find_map(|(position, layer)| {
                        let seen = seen.get(&layer.digest)?;
                        let present = seen.present.contains(&number);
                        (present || seen.hidden.contains(&number)).then_some((position, present))
                    });
                    if let Some((position, true)) = layer {
                        found.insert(number);
                        let path = wanted.paths[number].clone();
                        match parts.get(&number).filter(|_| number >= first) {
                            Some(ranges) => drop(assigned[position].1.insert(path, ranges.clone())),
                            None => assigned[position].0.push(path),
                        }
                    }
                }
                for (number, (prioritized, ranges)) in image.jobs.iter_mut().zip(assigned) {
                    *number = jobs.add(Job { prioritized, ranges, ..old[*number].clone() });
                }
            }
        });
        plan.jobs = jobs.into_inner();
        let missing = (0..wanted.paths.len()).filter(|number| !found.contains(number));
        unmatched.extend(missing.map(|number| wanted.paths[number].clone()));
        Ok(unmatched)
    }

    /// The prioritized paths with those that patterns match in their places, and the patterns that match nothing. What a
    /// layer above hides is sorted out later.
    fn expand(&self, layers: &[&Job]) -> Result<(Vec<String>, Vec<String>), ConvertError> {
        let all = &self.options.prioritized;
        // What cannot be understood is a name, and then one that no layer has.
        let pattern = |text: &String| {
            let is_pattern = self.options.patterns && text.contains(['*', '?', '[', '\\']);
            is_pattern.then(|| Pattern::parse(text).ok()).flatten()
        };
        let parsed: Vec<Option<Pattern>> = all.iter().map(pattern).collect();
        let patterns: Vec<&Pattern> = parsed.iter().flatten().collect();
        if patterns.is_empty() {
            return Ok((all.clone(), Vec::new()));
        }
        let matched = self.in_parallel(layers, |job| {
            let mut matched = vec![BTreeSet::new(); patterns.len()];
            let mut note = |name: &[u8], kind: Kind| {
                let base = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                if kind == Kind::Dir || base.starts_with(WHITEOUT) {
                    return;
                }
                // Others cannot be converted either.
                let Ok(name) = String::from_utf8(normal(name)) else { return };
                for (pattern, matched) in patterns.iter().zip(&mut matched) {
                    if pattern.matches(&name) {
                        matched.insert(name.clone());
                    }
                }
            };
            self.look(job, &mut note).map(|()| matched)
        })?;
        let (mut paths, mut unmatched, mut number) = (Vec::new(), Vec::new(), 0);
        for (path, pattern) in all.iter().zip(&parsed) {
            if pattern.is_none() {
                paths.push(path.clone());
                continue;
            }
            let found: BTreeSet<&String> = matched.iter().flat_map(|layer| &layer[number]).collect();
            if found.is_empty() {
                unmatched.push(path.clone());
            }
            paths.extend(found.into_iter().cloned());
            number += 1;
        }
        Ok((paths, unmatched))
    }

    fn look(&self, job: &Job, note: &mut dyn FnMut(&[u8], Kind)) -> Result<(), ConvertError> {
        self.report(&job.blob, Step::Names);
        let failed = |source| ConvertError::Layer { digest: Box::new(job.blob.digest), source };
        let mut blob = Verified::open(self.source, &job.blob, &self.stop)?;
        match self.look_into(&mut blob, note) {
            Ok(()) => blob.finish().map_err(ConvertError::from),
            Err(error) => {
                // A damaged blob fails in many ways; that it is damaged says more.
                blob.finish()?;
                Err(failed(error))
            }
        }
    }

    fn look_into(
        &self,
        blob: &mut Verified<'_>,
        note: &mut dyn FnMut(&[u8], Kind),
    ) -> Result<(), BuildError> {
        let limits = self.options.layer.limits;
        let archive = plain(blob).map_err(BuildError::Input)?;
        let mut scanner = Scanner::new(BufReader::with_capacity(BUFFER, archive));
        let mut entries = 0;
        loop {
            let member = scanner.next_member().map_err(|error| match error {
                ScanError::Tar { offset, problem } => BuildError::Tar { offset, problem },
                ScanError::Io(error) => BuildError::Input(error),
                other => BuildError::Input(io::Error::other(other)),
            })?;
            let Some(member) = member else { return Ok(()) };
            entries += 1;
            if entries > limits.entries {
                return Err(BuildError::Limit { what: "members", limit: limits.entries.into() });
            }
            if scanner.position().saturating_add(member.stored) > limits.uncompressed {
                return Err(BuildError::Limit { what: "bytes", limit: limits.uncompressed });
            }
            note(&member.name, member.kind);
        }
    }
}

/// The archive in a layer, whatever it is compressed with.
pub(crate) fn plain<'a>(mut source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::new();
    source.by_ref().take(4).read_to_end(&mut magic)?;
    let skippable = matches!(magic.as_slice(), [first, 0x2a, 0x4d, 0x18] if first & 0xf0 == 0x50);
    let compression = match &magic {
        magic if magic.starts_with(GZIP) => Some(Compression::Gzip),
        magic if magic.starts_with(ZSTD) || skippable => Some(Compression::Zstd),
        _ => None,
    };
    let source = Cursor::new(magic).chain(source);
    Ok(match compression {
        Some(compression) => Box::new(StreamDecoder::new(compression, source)),
        None => Box::new(source),
    })
}

impl Wanted {
    fn new<'a>(paths: impl IntoIterator<Item = &'a String>) -> Wanted {
        let mut wanted = Wanted { paths: Vec::new(), numbers: HashMap::new(), below: HashMap::new() };
        for path in paths {
            let name = normal(path.as_bytes());
            let number = wanted.paths.len();
            if name.is_empty() || wanted.numbers.contains_key(&name) {
                continue;
            }
            let ends = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
            for end in std::iter::once(0).chain(ends) {
                wanted.below.entry(name[..end].to_vec()).or_default().push(number);
            }
            wanted.paths.push(String::from_utf8_lossy(&name).into_owned());
            wanted.numbers.insert(name, number);
        }
        wanted
    }

    fn note(&self, name: &[u8], kind: Kind, seen: &mut Seen) {
        let name = normal(name);
        let (directory, base) = match name.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&name[..slash], &name[slash + 1..]),
            None => (&name[..0], &name[..]),
        };
        let below = |directory: &[u8]| self.below.get(directory).into_iter().flatten();
        if base == OPAQUE {
            seen.hidden.extend(below(directory));
        } else if let Some(gone) = base.strip_prefix(WHITEOUT) {
            let path = if directory.is_empty() { gone.to_vec() } else { [directory, b"/", gone].concat() };
            seen.hidden.extend(self.numbers.get(&path));
            seen.hidden.extend(below(&path));
        } else {
            seen.present.extend(self.numbers.get(&name));
            if kind != Kind::Dir && !name.is_empty() {
                seen.hidden.extend(below(&name));
            }
        }
    }
}

/// A path from the root of the image, without `.`, `..` and empty parts.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_has_files_and_hides_those_of_lower_ones() {
        let wanted = Wanted::new(&["/usr/bin/a", "./etc/b", "usr//lib/c", "/d", "d"].map(str::to_owned));
        assert_eq!(wanted.paths, ["usr/bin/a", "etc/b", "usr/lib/c", "d"]);
        let rows: &[(&str, Kind, &[usize], &[usize])] = &[
            ("./usr/bin/a", Kind::File, &[0], &[]),
            ("usr/bin", Kind::Dir, &[], &[]),
            ("usr/", Kind::Symlink, &[], &[0, 2]),
            ("usr/.wh..wh..opq", Kind::File, &[], &[0, 2]),
            (".wh..wh..opq", Kind::File, &[], &[0, 1, 2, 3]),
            ("usr/.wh.lib", Kind::File, &[], &[2]),
            (".wh.d", Kind::File, &[], &[3]),
            ("d", Kind::Hardlink, &[3], &[]),
            ("./", Kind::Dir, &[], &[]),
            ("usr/binary", Kind::File, &[], &[]),
        ];
        for (name, kind, present, hidden) in rows {
            let mut seen = Seen::default();
            wanted.note(name.as_bytes(), *kind, &mut seen);
            assert_eq!(seen.present, present.iter().copied().collect(), "{name}");
            assert_eq!(seen.hidden, hidden.iter().copied().collect(), "{name}");
        }
    }
}
