//! What the allocator keeps of memory that was given back.
//!
//! Decompression works on buffers of megabytes, on whichever thread is free. glibc by default keeps such buffers for
//! each thread that ever used one, for the life of the process: a few of them are more than everything else this
//! program holds.

/// Makes the allocator return large buffers to the kernel at once, and share its pools among threads.
///
/// Costs the page faults of a fresh buffer: under a tenth of the time that it takes to decompress into it.
#[cfg(target_env = "gnu")]
pub fn keep_little() {
    /// Larger than any allocation that comes often.
    const LARGE: i32 = 256 << 10;
    const POOLS: i32 = 2;
    #[allow(unsafe_code)]
    // SAFETY: mallopt has no precondition but to be called while no other thread uses the allocator, and this is
    // called first in main.
    let done =
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) & libc::mallopt(libc::M_ARENA_MAX, POOLS) };
    debug_assert_eq!(done, 1, "both are parameters that glibc knows");
}

/// Other C libraries do this by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn keep_little() {}
