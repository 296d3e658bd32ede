//! Generates the Rust form of containerd's protobufs; `README.md` says when and how to run it.

use std::{error::Error, path::Path};

/// The services; what they import comes with them.
const FILES: [&str; 10] = [
    "containers.proto",
    "content.proto",
    "diff.proto",
    "images.proto",
    "introspection.proto",
    "leases.proto",
    "namespaces.proto",
    "snapshots.proto",
    "tasks.proto",
    "version.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let krate = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // The snapshot service is described where it is served.
    let descriptors = protox::compile(FILES, [krate.join("proto"), krate.join("../snapshotter/proto")])?;
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".containerd.services.content.v1")
        .out_dir(krate.join("src/proto"))
        .compile_fds(descriptors)?;
    Ok(())
}
