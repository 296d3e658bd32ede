#!/bin/bash
#
# podman.sh [-n RUNS] [--rtt MS] [--mbit N] [--image NAME]: `podman run` to first output over a slow link, with the layer
# store and without.
#
# The registry is behind a proxy that delays and paces like a link of 20 ms round trip and 200 Mbit/s. Full pulls and
# lazy ones take turns, each on an empty host with cold caches; `podman run` pulls by itself. Then `find` walks the root
# file system of the image twice, as `podman image mount` shows it. The table has the medians and the ratios of lazy to full.

cd "$(dirname "$(readlink -f "$0")")/.." || exit 1
# shellcheck source=rig/lib.sh
. rig/lib.sh
# shellcheck source=rig/measure.sh
. rig/measure.sh
# shellcheck source=rig/podman.sh
. rig/podman.sh

IMAGES=${RIG_IMAGES:-$RIG_REPO/.build/images}
RUNS=3 RTT=20 MBIT=200 IMAGE=pydata

declare -A FIRSTS BYTES REQUESTS FINDS

# one WAY TAG: one run; its numbers are appended to the lists.
one() {
  local mark bytes requests begin proxy image dir walk
  with_store ''
  proxy=127.0.0.1:$(rig_free_port)
  rig_spawn proxy "$(dirname "$BIN")/examples/wan-proxy" "$proxy" "$RIG_REGISTRY" "$RTT" "$MBIT"
  rig_ready proxy "the proxy" rig_connects "$proxy"
  rig_drop_caches
  image=$proxy/$IMAGE:$2
  mark=$(rig_mark)
  begin=$(now)
  OUTPUT=$(pod_run --rm --quiet --tls-verify=false "$image" python3 -c "$PROGRAM")
  FIRSTS[$1]+=" $(($(now) - begin))"
  read -r bytes requests < <(rig_served "$mark")
  BYTES[$1]+=" $bytes" REQUESTS[$1]+=" $requests"
  dir=$(pod image mount "$image")
  for walk in cold warm; do
    begin=$(now)
    find "$dir" -printf '%p %s %m\n' >/dev/null
    [[ $walk == cold ]] || FINDS[$1]+=" $(($(now) - begin))"
  done
  pod image umount "$image" >/dev/null
  say "  $1: first output after $(seconds "${FIRSTS[$1]##* }") s ($OUTPUT), $(megabytes "$bytes") MB in $requests requests"
}

# row WHAT FORMAT LIST-NAME: prints the medians of two lists and their ratio.
row() {
  local -n lists=$3
  local full lazy
  # shellcheck disable=SC2086 # lists of numbers
  full=$(median ${lists[full]}) lazy=$(median ${lists[lazy]})
  printf '%-26s %12s %12s %8s\n' "$1" "$("$2" "$full")" "$("$2" "$lazy")" "$(ratio "$lazy" "$full")"
}
plain() { printf '%s\n' "$1"; }

main() {
  local arguments=("$@") run
  while (($#)); do
    case $1 in
      -n) RUNS=$2 ;;
      --rtt) RTT=$2 ;;
      --mbit) MBIT=$2 ;;
      --image) IMAGE=$2 ;;
      *) die "usage: podman.sh [-n RUNS] [--rtt MS] [--mbit N] [--image NAME]" ;;
    esac
    shift 2
  done
  PROGRAM='import numpy, pandas, scipy; print(numpy.__version__, pandas.__version__, scipy.__version__)'
  [[ $IMAGE == pydata ]] || PROGRAM='import numpy; print(numpy.__version__)'
  rig_require_root
  if [[ -z $RIG_SCRATCH ]]; then
    rig_host_packages
    rig_packages podman
    measure_build --bin stargz -p stargz -p testkit --example wan-proxy
    rig/images.sh "$IMAGES" "$IMAGE"
    export BIN
  fi
  rig_isolate "${arguments[@]}"

  say "a link of $RTT ms and $MBIT Mbit/s, $RUNS runs each"
  for ((run = 1; run <= RUNS; run++)); do
    say "run $run of $RUNS"
    one full org
    one lazy esgz
  done
  printf '\n%-26s %12s %12s %8s\n' "$IMAGE, medians of $RUNS" "in full" "lazily" "ratio"
  row "podman run to output, s" seconds FIRSTS
  row "fetched, MB" megabytes BYTES
  row "requests for blobs" plain REQUESTS
  row "find, warm, s" seconds FINDS
}

main "$@"
