//! The executable as people meet it: real mounts, a registry that misbehaves, signals and sockets.

mod harness;
mod mount_time;
