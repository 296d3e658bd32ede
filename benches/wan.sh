#!/bin/bash
#
# wan.sh [-n RUNS] [--rtt MS] [--mbit N] [--image NAME] [--all]: pull to first output over a slow link.
#
# The registry is behind a proxy that delays and paces like a link of 20 ms round trip and 200 Mbit/s. The container
# imports numpy, pandas and scipy from an image of 320 MB (`pydata` of rig/images.sh; any image there with a python3
# can be named). Full pulls for overlayfs and lazy pulls take turns, each on an empty host with cold caches; the
# table has the medians and the ratios of lazy to full. With --all the container reads every byte of its image instead,
# which is the worst that can be asked of a lazy pull.

cd "$(dirname "$(readlink -f "$0")")/.." || exit 1
# shellcheck source=rig/lib.sh
. rig/lib.sh
# shellcheck source=rig/measure.sh
. rig/measure.sh

IMAGES=${RIG_IMAGES:-$RIG_REPO/.build/images}
RUNS=3 RTT=20 MBIT=200 IMAGE=pydata ALL=

declare -A PULLS FIRSTS TOTALS BYTES REQUESTS

# one WAY SNAPSHOTTER IMAGE: one run; its numbers are appended to the lists.
one() {
  local mark bytes requests
  measure_fresh
  mark=$(rig_mark)
  measure_pull "$2" "$3"
  measure_run "$2" "$3" "wan-$1-$BASHPID" "${PROGRAM[@]}"
  read -r bytes requests < <(rig_served "$mark")
  PULLS[$1]+=" $PULL_MS" FIRSTS[$1]+=" $FIRST_MS" TOTALS[$1]+=" $((PULL_MS + FIRST_MS))"
  BYTES[$1]+=" $bytes" REQUESTS[$1]+=" $requests"
  say "  $1: pull $(seconds "$PULL_MS") s, first output $(seconds "$FIRST_MS") s ($OUTPUT)," \
    "$(megabytes "$bytes") MB in $requests requests"
}

# row WHAT FORMAT FULL-LIST LAZY-LIST: prints the medians of two lists and their ratio.
row() {
  local full lazy
  # shellcheck disable=SC2086 # lists of numbers
  full=$(median $3) lazy=$(median $4)
  printf '%-22s %12s %12s %8s\n' "$1" "$("$2" "$full")" "$("$2" "$lazy")" "$(ratio "$lazy" "$full")"
}
plain() { printf '%s\n' "$1"; }

main() {
  local arguments=("$@") run proxy
  while (($#)); do
    case $1 in
      --all)
        ALL=yes
        shift
        continue
        ;;
      -n) RUNS=$2 ;;
      --rtt) RTT=$2 ;;
      --mbit) MBIT=$2 ;;
      --image) IMAGE=$2 ;;
      *) die "usage: wan.sh [-n RUNS] [--rtt MS] [--mbit N] [--image NAME] [--all]" ;;
    esac
    shift 2
  done
  PROGRAM=(python3 -c 'import numpy, pandas, scipy; print(numpy.__version__, pandas.__version__, scipy.__version__)')
  [[ $IMAGE == pydata ]] || PROGRAM=(python3 -c 'import numpy; print(numpy.__version__)')
  # A tar that writes to /dev/null itself reads nothing.
  [[ -z $ALL ]] || PROGRAM=(sh -c 'tar -C / --one-file-system -cf - bin etc lib opt sbin usr var | wc -c')
  rig_require_root
  if [[ -z $RIG_SCRATCH ]]; then
    rig_host_packages
    measure_build --bin stargz -p stargz -p testkit --example wan-proxy
    rig/images.sh "$IMAGES" "$IMAGE"
    export BIN
  fi
  rig_isolate "${arguments[@]}"

  rig_storage "$IMAGES"
  rig_registry_start "$RIG_SCRATCH/storage"
  proxy=127.0.0.1:$(rig_free_port)
  rig_spawn proxy "$(dirname "$BIN")/examples/wan-proxy" "$proxy" "$RIG_REGISTRY" "$RTT" "$MBIT"
  rig_ready proxy "the proxy" rig_connects "$proxy"
  say "a link of $RTT ms and $MBIT Mbit/s, $RUNS runs each"
  for ((run = 1; run <= RUNS; run++)); do
    say "run $run of $RUNS"
    one full overlayfs "$proxy/$IMAGE:org"
    one lazy stargz "$proxy/$IMAGE:esgz"
  done
  printf '\n%-22s %12s %12s %8s\n' "$IMAGE, medians of $RUNS" "overlayfs" "$(measure_backend)" "ratio"
  row "pull, s" seconds "${PULLS[full]}" "${PULLS[lazy]}"
  row "run to output, s" seconds "${FIRSTS[full]}" "${FIRSTS[lazy]}"
  row "start (both), s" seconds "${TOTALS[full]}" "${TOTALS[lazy]}"
  row "fetched, MB" megabytes "${BYTES[full]}" "${BYTES[lazy]}"
  row "requests for blobs" plain "${REQUESTS[full]}" "${REQUESTS[lazy]}"
}

main "$@"
