#!/bin/bash
#
# backends.sh: what a tree costs with each way to show it, all in one run.
#
# The same 8000 small files and one of 256 MiB on ext4 (native), as EROFS image, as FUSE tree with what the kernel is told to
# keep (also with more readahead), and as a plain FUSE tree, where each operation is a request. Medians of five rounds in
# milliseconds, and multiples of ext4's. Chunks are present: the bytes behind are in the page cache.

cd "$(dirname "$(readlink -f "$0")")/.." || exit 1
# shellcheck source=rig/lib.sh
. rig/lib.sh

rig_require_root
rig_cargo
rig_packages mkfs.ext4=e2fsprogs
cargo bench --quiet -p mount --bench trees
