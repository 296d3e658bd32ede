//! Which ranges of the blob to ask for in one request.

use std::ops::Range;

/// A request, and the spans that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Pieces of the blob, ascending; more than one only where the store answers several ranges at once.
    pub runs: Vec<Range<u64>>,
    /// Wanted spans, ascending. What lies between them within a run is read and thrown away.
    pub spans: Vec<usize>,
}

impl Job {
    fn len(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }
}

/// Spans nearer to each other than this are read in one run: on any link the gap passes sooner than another request
/// would be answered (25 MB/s move it in 2.6 ms).
const GAP: u64 = 64 << 10;
/// The same for the next part of one answer, which costs some 200 bytes.
const GAP_IN_ANSWER: u64 = 512;
/// Stores and what is before them bound the length of headers.
const RUNS_MAX: usize = 64;

/// How to group spans.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest request, bytes of the blob. A single span that is larger is a request of its own.
    pub job_max: u64,
    /// Whether the store answers several ranges at once.
    pub many_ranges: bool,
}

/// Groups wanted spans (number and bytes in the blob, ascending) into requests.
pub fn jobs(spans: impl IntoIterator<Item = (usize, Range<u64>)>, limits: Limits) -> Vec<Job> {
    let gap = if limits.many_ranges { GAP_IN_ANSWER } else { GAP };
    let mut jobs: Vec<Job> = Vec::new();
    for (number, blob) in spans {
        if let Some(job) = jobs.last_mut()
            && job.len() + (blob.end - blob.start) <= limits.job_max
        {
            let runs = job.runs.len();
            match job.runs.last_mut() {
                Some(run) if blob.start <= run.end.saturating_add(gap) => {
                    run.end = run.end.max(blob.end);
                    job.spans.push(number);
                    continue;
                }
                Some(_) if limits.many_ranges && runs < RUNS_MAX => {
                    job.runs.push(blob);
                    job.spans.push(number);
                    continue;
                }
                _ => {}
            }
        }
        jobs.push(Job { runs: vec![blob], spans: vec![number] });
    }
    jobs
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one span is a list of one range")]
mod tests {
    use super::*;

    fn check(spans: &[Range<u64>], job_max: u64, many_ranges: bool, expected: &[(&[Range<u64>], &[usize])]) {
        let jobs = jobs(spans.iter().cloned().enumerate(), Limits { job_max, many_ranges });
        let found: Vec<_> = jobs.iter().map(|job| (job.runs.as_slice(), job.spans.as_slice())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn adjacent_and_near_spans_share_a_request() {
        check(&[0..10, 10..20], 1000, false, &[(&[0..20], &[0, 1])]);
        check(&[0..10, 10 + GAP..GAP + 20], 1 << 20, false, &[(&[0..GAP + 20], &[0, 1])]);
        check(
            &[0..10, 11 + GAP..GAP + 20],
            1 << 20,
            false,
            &[(&[0..10], &[0]), (&[11 + GAP..GAP + 20], &[1])],
        );
    }

    #[test]
    fn a_request_is_bounded_but_a_span_is_never_cut() {
        check(&[0..600, 600..1200], 1000, false, &[(&[0..600], &[0]), (&[600..1200], &[1])]);
        check(&[0..5000], 1000, true, &[(&[0..5000], &[0])]);
        check(&[], 1000, true, &[]);
    }

    #[test]
    fn far_spans_share_a_request_where_the_store_can() {
        check(&[0..10, 5000..5010, 5020..5030], 1000, true, &[(&[0..10, 5000..5030], &[0, 1, 2])]);
        check(&[0..600, 5000..5600], 1000, true, &[(&[0..600], &[0]), (&[5000..5600], &[1])]);
        let many: Vec<Range<u64>> = (0..100).map(|n| n * 10_000..n * 10_000 + 1).collect();
        let jobs = jobs(many.into_iter().enumerate(), Limits { job_max: 1 << 20, many_ranges: true });
        assert_eq!(jobs.iter().map(|job| job.runs.len()).collect::<Vec<_>>(), [RUNS_MAX, 100 - RUNS_MAX]);
    }
}
