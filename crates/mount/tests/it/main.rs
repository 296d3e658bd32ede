//! Real mounts: sessions, EROFS and overlays on them, and take-over.

mod backends;
mod common;
mod erofs;
mod images;
mod places;
mod take_over;
mod trees;
