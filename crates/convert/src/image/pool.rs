//! Work on several layers at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::{ConvertError, Task};

impl Task<'_> {
    /// Does `work` for all jobs; the results are in the order of the jobs. When one fails the others are stopped, and that
    /// failure is the result.
    pub(super) fn in_parallel<J: Sync, T: Send>(
        &self,
        jobs: &[J],
        work: impl Fn(&J) -> Result<T, ConvertError> + Sync,
    ) -> Result<Vec<T>, ConvertError> {
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let worker = || {
            let mut done = Vec::new();
            while !self.stop.is_set() {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(job) = jobs.get(number) else { break };
                match work(job) {
                    Ok(result) => done.push((number, result)),
                    Err(error) => {
                        // The first is the cause, those after it may come from the stop.
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        self.stop.stop();
                    }
                }
            }
            done
        };
        let threads = self.options.parallel.clamp(1, jobs.len().max(1));
        let mut done: Vec<(usize, T)> = thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
            let results = workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            results.flatten().collect()
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => return Err(error),
            None if self.stop.is_set() => return Err(ConvertError::Cancelled),
            None => {}
        }
        done.sort_unstable_by_key(|(number, _)| *number);
        Ok(done.into_iter().map(|(_, result)| result).collect())
    }
}
