//! Tar layers to lazily pullable layers.
