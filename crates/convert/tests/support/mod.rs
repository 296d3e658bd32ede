//! Sources in memory, and images in a layout read back as a lazy pull does.
#![allow(dead_code, missing_docs)] // each test takes what it needs

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{Cursor, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use builder::{Format, Gzip, Zstd};
use bytes::Bytes;
use convert::image::{ConvertError, Converted, Converter, Options, TOC_NAME_SUFFIX};
use convert::layout::{Layout, Writer};
use convert::{BlobError, Descriptor, Source};
use format::{Digest, FOOTER_SIZE_MAX, Footer, Limits, Toc, decode, read_toc, span_index, spans};
use serde_json::Value;
use testkit::compare::{Ignore, assert_same};
use testkit::image::{self, Document, Image, Layer};
use testkit::tarball;
use testkit::tree::{Entry, Tree};

pub const ESTARGZ: Format = Format::Estargz(Gzip { level: 1, min_chunk_size: 0 });
pub const ZSTD: Format = Format::ZstdChunked(Zstd { level: 1, podman: true });

pub fn options(format: Format) -> Options {
    let layer = builder::Options { chunk_size: 16 << 10, threads: 2, ..builder::Options::new(format) };
    Options::new(layer)
}

/// A layer with one file.
pub fn layer(name: &str) -> Layer {
    let tree = Tree::new().with(name, Entry::file(format!("{name} ").repeat(200)));
    Layer::gzip(&tarball::write(&tree))
}

/// Changes the manifest and the config of an image.
pub fn edit(image: &mut Image, change: impl FnOnce(&mut Value, &mut Value)) {
    let mut manifest: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
    let mut config: Value = serde_json::from_slice(&image.config.bytes).unwrap();
    change(&mut manifest, &mut config);
    image.config = Document::new(&image.config.media_type, &config);
    manifest["config"] = image.config.descriptor();
    image.manifest = Document::new(&image.manifest.media_type, &manifest);
}

/// Blobs in memory.
#[derive(Debug)]
pub struct Memory {
    pub root: Descriptor,
    blobs: HashMap<Digest, Bytes>,
    opened: HashMap<Digest, Arc<AtomicUsize>>,
}

impl Memory {
    /// One image as it is, several as an index.
    pub fn of(images: &[&Image]) -> Memory {
        let mut blobs = HashMap::new();
        for image in images {
            blobs.extend(image.layers.iter().map(|layer| (layer.digest, layer.content.to_bytes())));
            blobs.extend([&image.config, &image.manifest].map(|it| (it.digest, it.bytes.clone())));
        }
        let root = match images {
            [image] => image.manifest.clone(),
            images => image::index(images),
        };
        let opened = blobs.keys().map(|digest| (*digest, Arc::default())).collect();
        let mut memory = Memory { root: descriptor(&root), blobs, opened };
        memory.set_root(&root);
        memory
    }

    /// The last one is the root.
    pub fn documents(documents: &[Document]) -> Memory {
        let blobs = documents.iter().map(|it| (it.digest, it.bytes.clone())).collect();
        Memory { root: descriptor(documents.last().unwrap()), blobs, opened: HashMap::new() }
    }

    pub fn set_root(&mut self, root: &Document) {
        self.root = descriptor(root);
        self.add(root.digest, root.bytes.clone());
    }

    pub fn root_json(&self) -> Value {
        serde_json::from_slice(&self.blobs[&self.root.digest]).unwrap()
    }

    pub fn config(&self) -> Value {
        let digest: Digest = self.root_json()["config"]["digest"].as_str().unwrap().parse().unwrap();
        serde_json::from_slice(&self.blobs[&digest]).unwrap()
    }

    pub fn add(&mut self, digest: Digest, bytes: Bytes) {
        self.blobs.insert(digest, bytes);
        self.opened.entry(digest).or_default();
    }

    pub fn remove(&mut self, digest: &Digest) {
        self.blobs.remove(digest);
    }

    /// How often a blob was opened.
    pub fn opened(&self, digest: &Digest) -> &AtomicUsize {
        &self.opened[digest]
    }
}

fn descriptor(document: &Document) -> Descriptor {
    Descriptor::new(document.media_type.clone(), document.digest, document.bytes.len() as u64)
}

impl Source for Memory {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, BlobError> {
        if let Some(count) = self.opened.get(&descriptor.digest) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        match self.blobs.get(&descriptor.digest) {
            Some(bytes) => Ok(Box::new(Cursor::new(bytes))),
            None => Err(BlobError::Missing { digest: Box::new(descriptor.digest), place: "memory".into() }),
        }
    }
}

/// A layout that is being made.
pub struct Target {
    directory: tempfile::TempDir,
    writer: OnceCell<Writer>,
}

impl Target {
    pub fn new() -> Target {
        Target { directory: tempfile::tempdir().unwrap(), writer: OnceCell::new() }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("layout")
    }

    pub fn writer(&self) -> &Writer {
        self.writer.get_or_init(|| Writer::open(self.path()).unwrap())
    }

    pub fn convert(&self, source: &Memory, options: Options) -> Result<Converted, ConvertError> {
        self.convert_from(source, &source.root, options)
    }

    pub fn convert_from(
        &self,
        source: &dyn Source,
        image: &Descriptor,
        options: Options,
    ) -> Result<Converted, ConvertError> {
        Converter::new(options).convert(source, image, self.writer())
    }

    pub fn publish(&mut self, name: &str, converted: &Converted) {
        let toc_name = format!("{name}{TOC_NAME_SUFFIX}");
        let mut images = vec![(Some(name), &converted.image)];
        images.extend(converted.toc_image.as_ref().map(|image| (Some(toc_name.as_str()), image)));
        self.writer.take().unwrap().publish(&images).unwrap();
    }

    /// The layout to be read, whether something was published or not.
    pub fn layout(&self) -> Layout {
        if !self.path().join("index.json").exists() {
            fs::write(self.path().join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
        }
        Layout::open(self.path()).unwrap()
    }

    pub fn abandon(mut self) -> Abandoned {
        drop(self.writer.take());
        Abandoned(self.directory)
    }

    pub fn blobs(&self) -> BTreeMap<Digest, Vec<u8>> {
        let files = fs::read_dir(self.path().join("blobs/sha256")).unwrap();
        files
            .map(|file| {
                let file = file.unwrap();
                let digest = format!("sha256:{}", file.file_name().to_str().unwrap()).parse().unwrap();
                let bytes = fs::read(file.path()).unwrap();
                assert_eq!(Digest::of(&bytes), digest);
                (digest, bytes)
            })
            .collect()
    }

    pub fn blob(&self, digest: &Digest) -> Vec<u8> {
        fs::read(self.path().join("blobs/sha256").join(digest.hex())).unwrap()
    }

    pub fn json(&self, digest: &Digest) -> Value {
        serde_json::from_slice(&self.blob(digest)).unwrap()
    }

    pub fn image(&self, image: &Descriptor) -> ReadImage<'_> {
        let manifest = self.json(&image.digest);
        let config: Descriptor = serde_json::from_value(manifest["config"].clone()).unwrap();
        let layers = serde_json::from_value(manifest["layers"].clone()).unwrap();
        let config = self.json(&config.digest);
        ReadImage { target: self, manifest, config, layers }
    }
}

/// The directory in which a layout was.
pub struct Abandoned(tempfile::TempDir);

impl Abandoned {
    pub fn exists(&self) -> bool {
        fs::read_dir(self.0.path()).unwrap().next().is_some()
    }
}

/// An image in a layout.
pub struct ReadImage<'a> {
    target: &'a Target,
    pub manifest: Value,
    pub config: Value,
    pub layers: Vec<Descriptor>,
}

impl ReadImage<'_> {
    fn archive(&self, number: usize) -> Vec<u8> {
        let blob = self.target.blob(&self.layers[number].digest);
        let mut tar = Vec::new();
        let compression =
            if blob.starts_with(b"\x1f\x8b") { format::Compression::Gzip } else { format::Compression::Zstd };
        format::StreamDecoder::new(compression, &blob[..]).read_to_end(&mut tar).unwrap();
        assert_eq!(self.config["rootfs"]["diff_ids"][number], Digest::of(&tar).to_string());
        tar
    }

    /// The verified TOC of a layer that has it inside.
    pub fn toc(&self, number: usize) -> Toc {
        let layer = &self.layers[number];
        let blob = self.target.blob(&layer.digest);
        assert_eq!(layer.size, blob.len() as u64);
        let tail = &blob[blob.len().saturating_sub(FOOTER_SIZE_MAX)..];
        let footer = Footer::find(tail, layer.size).unwrap();
        let place = footer.toc.clone().unwrap();
        let compressed = &blob[place.start as usize..place.end as usize];
        let toc = read_toc(&footer, compressed, &Limits::default()).unwrap();
        let digest = layer.annotations["containerd.io/snapshot/stargz/toc.digest"].parse().unwrap();
        let toc = toc.verify(&digest).unwrap();
        let spans = spans(toc.chunks(), footer.payload_end);
        let mut out = Vec::new();
        for chunk in toc.chunks() {
            let span = &spans[span_index(&spans, chunk).unwrap()];
            let compressed = &blob[span.blob.start as usize..span.blob.end as usize];
            decode(footer.compression(), compressed, span.needed as usize, &mut out).unwrap();
            let bytes = &out[chunk.inner_offset as usize..chunk.inner_end() as usize];
            assert!(Digest::from_sha256(chunk.digest.unwrap()).matches(bytes));
        }
        toc
    }

    pub fn assert_layer_shows(&self, number: usize, tree: &Tree) {
        let mut shown = tarball::tree(&self.archive(number));
        for name in [".prefetch.landmark", ".no.prefetch.landmark", "stargz.index.json"] {
            shown.remove(name.as_bytes());
        }
        assert_same(tree, &shown, &Ignore::default());
        let blob = self.target.blob(&self.layers[number].digest);
        let tail = &blob[blob.len().saturating_sub(FOOTER_SIZE_MAX)..];
        if Footer::find(tail, blob.len() as u64).unwrap().toc.is_some() {
            self.toc(number);
        }
    }

    /// The files of a layer that are in front of its landmark, in their order.
    pub fn before_landmark(&self, number: usize) -> Vec<String> {
        let names = tarball::parse(&self.archive(number))
            .into_iter()
            .filter(|parsed| parsed.member.kind == tarball::Type::File);
        let names = names.map(|parsed| String::from_utf8(parsed.member.name).unwrap());
        names.take_while(|name| name != ".prefetch.landmark").collect()
    }
}
