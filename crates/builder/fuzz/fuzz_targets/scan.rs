//! Property: whatever an archive holds, its members follow each other, and lie inside of what was read.
#![no_main]

use builder::tar::Scanner;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|archive: &[u8]| {
    let mut scanner = Scanner::new(archive);
    let mut end = 0;
    while let Ok(Some(member)) = scanner.next_member() {
        assert!(end <= member.header_at && member.header_at < member.content_at);
        assert!(member.content_at <= archive.len() as u64);
        assert!(member.sparse.is_some() || member.stored == member.size);
        end = member.content_at;
    }
});
