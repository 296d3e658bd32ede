//! Generates the Rust form of the snapshot service's protobufs; `README.md` says when and how to run it.

use std::{error::Error, fs, path::Path};

/// The service; what it imports comes with it.
const FILES: [&str; 1] = ["snapshots.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let krate = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let descriptors = protox::compile(FILES, [krate.join("proto")])?;

    tonic_prost_build::configure()
        .build_client(false)
        .out_dir(krate.join("src/proto"))
        .compile_fds(descriptors.clone())?;

    // Only tests call the service: their client is a stub over the messages of the crate.
    let scratch = krate.join("codegen/target/client");
    fs::create_dir_all(&scratch)?;
    tonic_prost_build::configure()
        .build_server(false)
        .extern_path(".containerd.services.snapshots.v1", "::snapshotter::proto::snapshots")
        .extern_path(".containerd.types", "::snapshotter::proto::types")
        .out_dir(&scratch)
        .compile_fds(descriptors)?;
    let made = scratch.join("containerd.services.snapshots.v1.rs");
    fs::copy(made, krate.join("tests/it/common/snapshots_client.rs"))?;
    Ok(())
}
