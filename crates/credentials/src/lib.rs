//! Where registry credentials come from.
