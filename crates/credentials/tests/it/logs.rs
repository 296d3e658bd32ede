//! All that is logged, by all tests.

use std::io;
use std::sync::{Mutex, Once};

use tracing_subscriber::EnvFilter;

use crate::SECRET;

static TEXT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        TEXT.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins to listen to what is logged.
pub fn record() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_env_filter(EnvFilter::new("debug,credentials=trace"))
            .with_writer(|| Writer)
            .init();
    });
}

/// How many lines so far hold all of `words`.
pub fn count(words: &[&str]) -> usize {
    let text = String::from_utf8(TEXT.lock().unwrap().clone()).unwrap();
    text.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

/// Nothing of what was logged so far may hold a secret.
#[track_caller]
pub fn assert_clean() {
    assert_eq!(count(&[SECRET]), 0);
}
