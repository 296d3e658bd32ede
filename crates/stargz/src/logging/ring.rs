//! The last lines.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Lines that are kept, and bytes of all of them together.
const LINES_MAX: usize = 1000;
const BYTES_MAX: usize = 512 << 10;

/// A bounded memory of lines.
#[derive(Debug, Default)]
pub struct Ring(Mutex<(VecDeque<String>, usize)>);

impl Ring {
    /// Adds a line; the oldest go.
    pub fn push(&self, line: String) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (lines, bytes) = &mut *kept;
        *bytes += line.len();
        lines.push_back(line);
        while lines.len() > LINES_MAX || *bytes > BYTES_MAX {
            let Some(oldest) = lines.pop_front() else { break };
            *bytes -= oldest.len();
        }
    }

    /// All of them, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_lines_go() {
        let ring = Ring::default();
        (0..LINES_MAX + 5).for_each(|number| ring.push(number.to_string()));
        let lines = ring.lines();
        assert_eq!((lines.len(), lines[0].as_str()), (LINES_MAX, "5"));
        ring.push("x".repeat(BYTES_MAX - 1));
        assert!(ring.lines().len() < 3);
    }
}
