//! Property: whatever the header is, reading it ends, and gives nothing that is longer than it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| registry::fuzzing::challenge(text));
