//! Property: what is accepted has one normal form, which names the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use registry::Reference;

fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        let normal = reference.to_string();
        assert_eq!(Reference::parse(&normal).expect("the normal form is accepted"), reference);
    }
});
