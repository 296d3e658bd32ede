#!/bin/bash
#
# local.sh [-n RUNS] [--image NAME]: what a lazily pulled image costs when the network does not matter.
#
# The same image, pulled in full for overlayfs on this disk and lazily from a loopback registry, each mounted as
# a container would have it:
#
#   names, attributes   a walk with find, without and with the attributes of everything; caches dropped, and warm
#   tar                 reading everything; caches dropped, and from the page cache. All chunks are present, first as
#                       the daemon serves them (served), then mounted from disk after a restart (local)
#   memory              of the daemon: idle, with an image of 20 layers mounted, and after reading it
#
# The table has medians and ratios to overlayfs.

cd "$(dirname "$(readlink -f "$0")")/.." || exit 1
# shellcheck source=rig/lib.sh
. rig/lib.sh
# shellcheck source=rig/measure.sh
. rig/measure.sh

IMAGES=${RIG_IMAGES:-$RIG_REPO/.build/images}
RUNS=5 IMAGE=pydata
# What is read is fetched; nothing else goes on while times are taken.
MEASURE_CONFIG='noprefetch = true
no_background_fetch = true'

walk_names() { find "$1" -xdev; }
walk_attributes() { find "$1" -xdev -printf '%i %s %m %T@\n'; }
read_all() { tar -C "$1" --one-file-system -cf - . | cat; } # a tar that writes to /dev/null itself reads nothing

# took COMMAND...: prints how many milliseconds a command takes.
took() {
  local begin
  begin=$(now)
  "$@" >/dev/null
  echo $(($(now) - begin))
}

# cold COMMAND... / warm COMMAND...: prints the median of RUNS times with caches dropped / after one to warm them.
cold() {
  local times=() run
  for ((run = 0; run < RUNS; run++)); do
    rig_drop_caches
    times+=("$(took "$@")")
  done
  median "${times[@]}"
}
warm() {
  local times=() run
  "$@" >/dev/null
  for ((run = 0; run < RUNS; run++)); do
    times+=("$(took "$@")")
  done
  median "${times[@]}"
}

# show SNAPSHOTTER DIR: mounts the only image that a snapshotter has, below an empty writable layer (a view would be
# garbage to containerd). hide SNAPSHOTTER DIR: takes it away.
show() {
  local top
  # Of the committed snapshots the one that is nobody's parent; the header line is NAME PARENT KIND.
  top=$(rig_ctr snapshots --snapshotter "$1" list | awk '$NF == "Committed" { names[$1]; if (NF > 2) parents[$2] }
    END { for (name in names) if (!(name in parents)) print name }')
  mkdir -p "$2"
  rig_ctr snapshots --snapshotter "$1" prepare "bench-$1" "$top" >/dev/null
  eval "$(rig_ctr snapshots --snapshotter "$1" mounts "$2" "bench-$1")"
}
hide() {
  umount "$2"
  rig_ctr snapshots --snapshotter "$1" rm "bench-$1"
}

row() { printf '%-34s %10s %10s %8s\n' "$1" "$2 ms" "$3 ms" "$(ratio "$3" "$2")"; }

# resident: prints the resident memory of the daemon, of which anonymous, in KiB.
resident() { awk '/^VmRSS/ { r = $2 } /^RssAnon/ { a = $2 } END { print r, a }' "/proc/$(rig_pid stargz)/status"; }

memory() {
  local rss anon
  read -r rss anon < <(resident)
  printf '%-34s %7s MiB, of which anonymous %s MiB\n' "$1" "$((rss / 1024)).$((rss % 1024 * 10 / 1024))" \
    "$((anon / 1024)).$((anon % 1024 * 10 / 1024))"
}

measure_trees() {
  local full=$RIG_SCRATCH/full lazy=$RIG_SCRATCH/lazy first walk
  local -A native
  measure_fresh
  measure_pull overlayfs "$RIG_REGISTRY/$IMAGE:org"
  measure_pull stargz "$RIG_REGISTRY/$IMAGE:esgz"
  show overlayfs "$full"
  show stargz "$lazy"
  printf '\n%-34s %13s %13s %8s\n' "$IMAGE, medians of $RUNS" overlayfs "$(measure_backend)" ratio
  for walk in walk_names walk_attributes; do
    row "find, ${walk#walk_}, caches dropped" "$(cold "$walk" "$full")" "$(cold "$walk" "$lazy")"
    row "find, ${walk#walk_}, warm" "$(warm "$walk" "$full")" "$(warm "$walk" "$lazy")"
  done
  rig_drop_caches
  first=$(took read_all "$lazy")
  native[cold]=$(cold read_all "$full") native[warm]=$(warm read_all "$full")
  row "tar, fetching everything (once)" "${native[cold]}" "$first"
  row "tar, served, caches dropped" "${native[cold]}" "$(cold read_all "$lazy")"
  row "tar, served, page cache" "${native[warm]}" "$(warm read_all "$lazy")"
  hide stargz "$lazy"
  rig_stop stargz INT
  rig_snapshotter_start "$BIN" "$MEASURE_CONFIG"
  rig_reconnect
  show stargz "$lazy"
  row "tar, local, caches dropped" "${native[cold]}" "$(cold read_all "$lazy")"
  row "tar, local, page cache" "${native[warm]}" "$(warm read_all "$lazy")"
  hide stargz "$lazy"
  hide overlayfs "$full"
}

measure_memory() {
  local dir=$RIG_SCRATCH/layered
  measure_fresh
  printf '\n%-34s\n' "memory of the daemon"
  memory "idle"
  measure_pull stargz "$RIG_REGISTRY/layered:esgz"
  memory "$(measure_layers) layers mounted"
  show stargz "$dir"
  walk_attributes "$dir" >/dev/null
  memory "after a walk"
  read_all "$dir" >/dev/null
  memory "after reading everything"
  hide stargz "$dir"
}

main() {
  local arguments=("$@")
  while (($#)); do
    case $1 in
      -n) RUNS=$2 ;;
      --image) IMAGE=$2 ;;
      *) die "usage: local.sh [-n RUNS] [--image NAME]" ;;
    esac
    shift 2
  done
  rig_require_root
  if [[ -z $RIG_SCRATCH ]]; then
    rig_host_packages
    measure_build --bin stargz
    rig/images.sh "$IMAGES" "$IMAGE" layered
    export BIN
  fi
  rig_isolate "${arguments[@]}"
  rig_storage "$IMAGES"
  rig_registry_start "$RIG_SCRATCH/storage"
  measure_trees
  measure_memory
}

main "$@"
