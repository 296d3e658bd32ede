//! Images against a model of the tree, against the kernel and against erofs-utils.

mod generate;
mod hostile;
mod kernel;
mod model;
mod round_trip;
mod utilities;

/// Tells that a check does not take place. Straight to the descriptor: what a passing test prints is not shown.
fn skip(reason: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}
