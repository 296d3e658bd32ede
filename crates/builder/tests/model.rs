//! Archives that say things twice, compared with what unpacking one member after the other makes of them.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use builder::BuildError;
use proptest::prelude::*;
use support::{ESTARGZ, EXTERNAL, LOSSLESS, SHARED, assert_shows_but, options, try_build};
use testkit::compare::Ignore;
use testkit::tarball::{self, Member, Type};

const PATHS: [&str; 8] = ["a", "b", "c", "a/b", "a/c", "a/b/c", "b/a", "b/.wh.c"];

fn members() -> impl Strategy<Value = Vec<Member>> {
    let path = || prop::sample::select(&PATHS[..]);
    let stored = (path(), prop::sample::select(&["", "./", "/", "../"][..]));
    let kind = prop::sample::select(
        &[Type::File, Type::File, Type::Dir, Type::Hardlink, Type::Symlink, Type::Fifo][..],
    );
    let member = (kind, stored, path(), 0_u64..6, 1_i64..1_000_000).prop_map(
        |(kind, (path, prefix), link, size, secs)| {
            // The model takes a link to itself for nothing, even where there is nothing.
            let kind = if link == path && kind == Type::Hardlink { Type::Fifo } else { kind };
            let mut member = Member::new(kind, [prefix, path].concat());
            if matches!(kind, Type::Hardlink | Type::Symlink) {
                member.link = link.as_bytes().to_vec();
            }
            if kind == Type::File {
                member.content = testkit::tree::content(secs as u64, size as usize * 700);
            }
            // Says which member it was; parents that are only implied have a time that nobody gave them.
            member.mode = secs as u32 & 0o777;
            member
        },
    );
    prop::collection::vec(member, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_last_word_on_each_name_counts(members in members(), format in prop::sample::select(&[ESTARGZ, SHARED, EXTERNAL, LOSSLESS][..])) {
        let tar = tarball::archive(&members);
        let mut options = options(format);
        options.chunk_size = 1000;
        let built = try_build(options, &tar);
        // The model panics when a member cannot be unpacked: a parent that is no directory, a link to nothing.
        match catch_unwind(AssertUnwindSafe(|| tarball::tree(&tar))) {
            Ok(expected) => {
                let (built, blob) = built.map_err(|error| TestCaseError::fail(error.to_string()))?;
                assert_shows_but(&expected, &built, &blob, Ignore { mtime: true, ..Ignore::default() });
            }
            Err(_) => {
                let refused = matches!(built, Ok(_) | Err(BuildError::Entry { .. }));
                prop_assert!(refused);
            }
        }
    }
}
