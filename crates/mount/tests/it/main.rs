//! Real mounts: sessions, EROFS and overlays on them, and take-over.

mod common;
mod erofs;
mod images;
mod take_over;
