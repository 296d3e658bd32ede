//! The executable as people meet it: real mounts, a registry that misbehaves, signals and sockets.

mod backends;
mod daemon;
mod faults;
mod harness;
mod lies;
mod lifecycle;
mod mount_time;
mod read_time;
mod registries;
mod staying;
mod store;
mod tools;
mod watch;
