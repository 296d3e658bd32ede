//! The service from outside: over a real socket, after crashes, and in a real containerd.

mod common;
mod containerd;
mod crash;
mod ordinary;
mod remote;
