//! What is to be made of an image, and what is told meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use format::{Digest, FileRanges};

use super::Action;
use crate::descriptor::Platform;

/// What is to be made of an image.
#[derive(Clone, Debug)]
pub struct Options {
    /// How each layer is made. [`builder::Options::prioritized`] and `allow_missing` do not matter: those here are for the
    /// image.
    pub layer: builder::Options,
    /// Whose media types the new image has.
    pub media_types: MediaTypes,
    /// Which images of an index are converted. The others are not in the new index.
    pub platforms: Platforms,
    /// Files of the image to come first in their layers, most wanted first. Leading `/` and `./` do not matter. Symbolic
    /// links in the middle of a path are not followed.
    pub prioritized: Vec<String>,
    /// Parts of files of the image that are wanted early although the files stay behind the landmark, by path; see
    /// [`builder::Options::ranges`], which does not matter here.
    pub ranges: BTreeMap<String, FileRanges>,
    /// Take prioritized paths for the patterns of a [`List`](crate::List): each stands for the files that it matches, in
    /// the order of their names. One that matches nothing is missing.
    pub patterns: bool,
    /// Tell about prioritized files that are in no image in [`Converted::missing`](super::Converted) instead of failing.
    pub allow_missing: bool,
    /// Take layers as they are which have the format already, and a TOC that matches its annotation, unless files of them
    /// are to come first. Their chunk sizes and compression levels may then be others.
    pub reuse: bool,
    /// How many layers are converted side by side, 1 at least. Each uses as many threads as
    /// [`builder::Options::threads`] says.
    pub parallel: usize,
}

impl Options {
    /// The defaults: OCI media types, all platforms, nothing prioritized, what can be is reused, two layers side by side
    /// (one is read while another is compressed).
    pub fn new(layer: builder::Options) -> Options {
        Options {
            layer,
            media_types: MediaTypes::Oci,
            platforms: Platforms::All,
            prioritized: Vec::new(),
            ranges: BTreeMap::new(),
            patterns: false,
            allow_missing: false,
            reuse: true,
            parallel: 2,
        }
    }
}

impl Options {
    pub(super) fn lossless(&self) -> bool {
        matches!(self.layer.format, builder::Format::ExternalToc { lossless: true, .. })
    }
}

/// Whose media types the new image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaTypes {
    /// Those of the OCI image specification.
    Oci,
    /// Those of the source. Docker's leave no place for annotations, by which lazy pulls are verified; nor does skopeo
    /// find a manifest of docker's types in a layout.
    Keep,
}

/// Which images of an index are converted.
#[derive(Clone, Debug, PartialEq)]
pub enum Platforms {
    /// All of them.
    All,
    /// Those for any of these. Each has to be there.
    Only(Vec<Platform>),
}

/// How far a layer is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// The layer, as it was.
    pub layer: Digest,
    /// Its size in bytes, as it was.
    pub size: u64,
    /// What is being done.
    pub step: Step,
}

/// What is being done with a layer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// Its names are being read, to find where prioritized files are.
    Names,
    /// It is being converted.
    Building(builder::Progress),
    /// It is being copied as it is.
    Copying {
        /// Bytes that were copied.
        done: u64,
    },
    /// It was built and goes to where it has to be.
    Storing {
        /// Its new size in bytes.
        size: u64,
    },
    /// It is done.
    Done(Action),
}

pub(super) type Report = Arc<dyn Fn(Progress) + Send + Sync>;
