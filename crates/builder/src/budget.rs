//! How much of the archive is under way between the thread that reads it and the one that writes the result.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A number of bytes that can be taken and given back.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    closed: bool,
}

/// Bytes that are taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    budget: Arc<Budget>,
    size: usize,
}

impl Budget {
    pub fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget { limit, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Waits until there is room. What is larger than the whole budget gets it when nobody else has any of it. `None`
    /// when the budget was closed.
    pub fn take(self: &Arc<Budget>, size: usize) -> Option<Taken> {
        let full = |state: &mut State| !state.closed && state.taken > 0 && state.taken + size > self.limit;
        let waited = self.changed.wait_while(self.lock(), full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return None;
        }
        state.taken += size;
        Some(Taken { budget: Arc::clone(self), size })
    }

    /// Nobody is to wait any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Nothing panics while the lock is held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.lock().taken -= self.size;
        self.budget.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_waits_until_something_is_given_back() {
        let budget = Budget::new(10);
        let first = budget.take(8).unwrap();
        let waiting = std::thread::spawn({
            let budget = Arc::clone(&budget);
            move || budget.take(3).is_some()
        });
        drop(first);
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn one_may_be_larger_than_the_budget() {
        let budget = Budget::new(10);
        assert!(budget.take(100).is_some());
        assert!(budget.take(100).is_some());
    }

    #[test]
    fn closing_wakes_who_waits() {
        let budget = Budget::new(10);
        let _first = budget.take(10).unwrap();
        let waiting = std::thread::spawn({
            let budget = Arc::clone(&budget);
            move || budget.take(1).is_none()
        });
        budget.close();
        assert!(waiting.join().unwrap());
    }
}
