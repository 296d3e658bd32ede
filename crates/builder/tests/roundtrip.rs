//! Random trees: archived, built in every format, and read back both ways.

mod support;

use builder::{Format, Gzip, Options, Zstd};
use proptest::prelude::*;
use proptest::sample::Index;
use support::{archive, assert_shows, build, gzip};
use testkit::tarball::{self, Names};
use testkit::tree;

fn formats() -> impl Strategy<Value = Format> {
    let gzip = (0_u8..=9, prop_oneof![2 => Just(0_u64), 1 => 1_u64..60_000])
        .prop_map(|(level, min_chunk_size)| Gzip { level, min_chunk_size });
    prop_oneof![
        3 => gzip.clone().prop_map(Format::Estargz),
        1 => gzip.clone().prop_map(|gzip| Format::ExternalToc { gzip, lossless: false }),
        2 => gzip.prop_map(|gzip| Format::ExternalToc { gzip, lossless: true }),
        1 => (1..=9_i32, any::<bool>()).prop_map(|(level, podman)| Format::ZstdChunked(Zstd { level, podman })),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    let chunk_size = prop_oneof![1_u32..100, Just(4096_u32), 1_u32..40_000, Just(4 << 20)];
    (formats(), chunk_size, 1_usize..4).prop_map(|(format, chunk_size, threads)| Options {
        chunk_size,
        threads,
        ..Options::new(format)
    })
}

fn trees() -> impl Strategy<Value = tree::Tree> {
    let options =
        tree::Options { whiteouts: true, before_epoch: true, chunk_size: 4096, ..Default::default() };
    tree::trees(options)
}

fn is_lossless(options: &Options) -> bool {
    matches!(options.format, Format::ExternalToc { lossless: true, .. })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_built_shows_the_tree(
        tree in trees(),
        options in options(),
        dot_slash in any::<bool>(),
        compression in 0..3,
        wanted in prop::collection::vec(any::<Index>(), 0..6),
    ) {
        let names = if dot_slash { Names::DotSlash } else { Names::Plain };
        let tar = tarball::archive(&tarball::members(&tree, names));
        let source = match compression {
            0 => tar.clone(),
            1 => gzip(&tar),
            _ => zstd::encode_all(&tar[..], 1).unwrap(),
        };
        let mut options = options;
        if !is_lossless(&options) {
            let paths = tree.with_markers_as_files();
            let paths: Vec<_> = paths.paths().into_iter().map(String::from_utf8_lossy).collect();
            options.prioritized = wanted.iter().map(|index| format!("/{}", index.get(&paths))).collect();
        }
        let (built, blob) = build(options.clone(), &source);
        prop_assert!(built.missing.is_empty());
        assert_shows(&tree, &built, &blob);
        if is_lossless(&options) {
            prop_assert_eq!(&archive(&built, &blob), &tar);
        }
        // Neither the number of threads nor how the source was compressed matters.
        let (again, _) = build(Options { threads: 1, ..options.clone() }, &tar);
        prop_assert_eq!(again.blob_digest, built.blob_digest);
        // What was built is a source, too. In the same order, the result is the same.
        if options.prioritized.is_empty() && !is_lossless(&options) {
            let (rebuilt, _) = build(options, &blob);
            prop_assert_eq!(rebuilt.blob_digest, built.blob_digest);
        }
    }
}
