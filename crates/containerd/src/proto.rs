//! The wire types of containerd's services, version 1.
//!
//! Generated from `proto/` by the generator in `codegen/`, never edited by hand.

// The modules are nested as the protobuf packages are, since the generated code refers to its relatives by path.
#[allow(missing_docs, missing_debug_implementations, clippy::doc_markdown)]
mod containerd {
    pub mod types {
        include!("proto/containerd.types.rs");
    }
    pub mod v1 {
        pub mod types {
            include!("proto/containerd.v1.types.rs");
        }
    }
    pub mod services {
        pub mod containers {
            pub mod v1 {
                include!("proto/containerd.services.containers.v1.rs");
            }
        }
        pub mod content {
            pub mod v1 {
                include!("proto/containerd.services.content.v1.rs");
            }
        }
        pub mod diff {
            pub mod v1 {
                include!("proto/containerd.services.diff.v1.rs");
            }
        }
        pub mod images {
            pub mod v1 {
                include!("proto/containerd.services.images.v1.rs");
            }
        }
        pub mod introspection {
            pub mod v1 {
                include!("proto/containerd.services.introspection.v1.rs");
            }
        }
        pub mod leases {
            pub mod v1 {
                include!("proto/containerd.services.leases.v1.rs");
            }
        }
        pub mod namespaces {
            pub mod v1 {
                include!("proto/containerd.services.namespaces.v1.rs");
            }
        }
        pub mod snapshots {
            pub mod v1 {
                include!("proto/containerd.services.snapshots.v1.rs");
            }
        }
        pub mod tasks {
            pub mod v1 {
                include!("proto/containerd.services.tasks.v1.rs");
            }
        }
        pub mod version {
            pub mod v1 {
                include!("proto/containerd.services.version.v1.rs");
            }
        }
    }
}

pub use containerd::services::{
    containers::v1 as containers, content::v1 as content, diff::v1 as diff, images::v1 as images,
    introspection::v1 as introspection, leases::v1 as leases, namespaces::v1 as namespaces,
    snapshots::v1 as snapshots, tasks::v1 as tasks, version::v1 as version,
};
pub use containerd::types;
pub use containerd::v1::types as process;
