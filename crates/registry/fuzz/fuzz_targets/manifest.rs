//! Property: whatever the document is, reading it and choosing from it ends without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| registry::fuzzing::manifest(bytes));
