//! Which ranges of the blob to ask for.

use std::ops::Range;

/// A piece of the blob to read in one request, and the spans in it that are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Bytes of the blob.
    pub blob: Range<u64>,
    /// Wanted spans, ascending. What lies between them is read and thrown away.
    pub spans: Vec<usize>,
}

/// Spans nearer to each other than this are read in one request: on any link the gap passes sooner than another
/// request would be answered (25 MB/s move it in 2.6 ms).
const GAP: u64 = 64 << 10;

/// Groups wanted spans (number and bytes in the blob, ascending) into jobs of at most `job_max` bytes. A single span
/// that is larger is a job of its own.
pub fn jobs(spans: impl IntoIterator<Item = (usize, Range<u64>)>, job_max: u64) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    for (number, blob) in spans {
        match jobs.last_mut() {
            Some(job) if blob.start <= job.blob.end + GAP && blob.end - job.blob.start <= job_max => {
                job.blob.end = job.blob.end.max(blob.end);
                job.spans.push(number);
            }
            _ => jobs.push(Job { blob, spans: vec![number] }),
        }
    }
    jobs
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one span is a list of one range")]
mod tests {
    use super::*;

    fn check(spans: &[Range<u64>], job_max: u64, expected: &[(Range<u64>, &[usize])]) {
        let jobs = jobs(spans.iter().cloned().enumerate(), job_max);
        let found: Vec<_> = jobs.iter().map(|job| (job.blob.clone(), job.spans.as_slice())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn adjacent_and_near_spans_share_a_request() {
        check(&[0..10, 10..20], 1000, &[(0..20, &[0, 1])]);
        check(&[0..10, 10 + GAP..GAP + 20], 1 << 20, &[(0..GAP + 20, &[0, 1])]);
        check(&[0..10, 11 + GAP..GAP + 20], 1 << 20, &[(0..10, &[0]), (11 + GAP..GAP + 20, &[1])]);
    }

    #[test]
    fn a_request_is_bounded_but_a_span_is_never_cut() {
        check(&[0..600, 600..1200], 1000, &[(0..600, &[0]), (600..1200, &[1])]);
        check(&[0..5000], 1000, &[(0..5000, &[0])]);
        check(&[], 1000, &[]);
    }
}
