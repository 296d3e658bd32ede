//! Media types: those of the OCI image specification, and what docker (image manifest, version 2, schema 2) calls them.

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
pub(crate) const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub(crate) const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

const NAMES: [(&str, &str); 8] = [
    (MANIFEST, DOCKER_MANIFEST),
    (INDEX, DOCKER_INDEX),
    (CONFIG, DOCKER_CONFIG),
    (LAYER, DOCKER_LAYER),
    (LAYER_GZIP, DOCKER_LAYER_GZIP),
    (LAYER_ZSTD, DOCKER_LAYER_ZSTD),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ),
];

/// What OCI calls it. What is not docker's stays.
pub(crate) fn to_oci(media_type: &str) -> &str {
    NAMES.iter().find(|(_, docker)| *docker == media_type).map_or(media_type, |(oci, _)| oci)
}

/// What docker calls it. What is not OCI's stays.
pub(crate) fn to_docker(media_type: &str) -> &str {
    NAMES.iter().find(|(oci, _)| *oci == media_type).map_or(media_type, |(_, docker)| docker)
}

/// Whether a manifest of this media type is docker's.
pub(crate) fn is_docker(media_type: &str) -> bool {
    NAMES.iter().any(|(_, docker)| *docker == media_type)
}

/// Whether a blob is a layer that can be converted.
pub(crate) fn is_layer(media_type: &str) -> bool {
    [LAYER, LAYER_GZIP, LAYER_ZSTD].contains(&to_oci(media_type))
}

/// Whether a blob is a layer that may be at another place than with the image.
pub(crate) fn is_foreign(media_type: &str) -> bool {
    to_oci(media_type).starts_with("application/vnd.oci.image.layer.nondistributable.")
}

/// Whether something is a manifest or an index, which registries keep apart from blobs.
pub(crate) fn is_manifest(media_type: &str) -> bool {
    [MANIFEST, INDEX].contains(&to_oci(media_type))
}
