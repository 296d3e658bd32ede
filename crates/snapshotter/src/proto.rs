//! The wire types of containerd's snapshot service, version 1.
//!
//! Generated from `proto/` by the generator in `codegen/`, never edited by hand.

// The modules are nested as the protobuf packages are, since the generated code refers to its relatives by path.
#[allow(missing_docs, missing_debug_implementations)]
mod containerd {
    pub mod types {
        include!("proto/containerd.types.rs");
    }
    pub mod services {
        pub mod snapshots {
            pub mod v1 {
                include!("proto/containerd.services.snapshots.v1.rs");
            }
        }
    }
}

pub use containerd::{services::snapshots::v1 as snapshots, types};
