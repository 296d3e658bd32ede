//! Property: whatever the text is, addresses that are read from it are scheme, host, port and path alone.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| registry::fuzzing::hosts_toml(text));
