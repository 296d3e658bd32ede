#!/bin/bash
#
# profile.sh [-n RUNS] [--rtt MS] [--mbit N] [--image NAME] [--wait]: the second cold start, with and without a profile.
#
# The registry is behind a proxy like a link of 20 ms round trip and 200 Mbit/s. One start records what the container
# reads. After it, starts without and with that profile take turns, each on an empty host with cold caches. The background
# is off, so that only what the start needs is fetched. --wait lets starts wait for the profile.

cd "$(dirname "$(readlink -f "$0")")/.." || exit 1
# shellcheck source=rig/lib.sh
. rig/lib.sh
# shellcheck source=rig/measure.sh
. rig/measure.sh

IMAGES=${RIG_IMAGES:-$RIG_REPO/.build/images}
RUNS=3 RTT=20 MBIT=200 IMAGE=pydata WAIT=false

declare -A FIRSTS TOTALS BYTES REQUESTS

# one WAY: one start; its numbers are appended to the lists.
one() {
  local mark bytes requests
  MEASURE_CONFIG=$'no_background_fetch = true\n[profile]\n'"apply = $([[ $1 == with ]] && echo true || echo false)"$'\n'
  MEASURE_CONFIG+="wait = $WAIT"$'\n'
  measure_fresh
  if [[ $1 == with ]]; then
    "$BIN" profile apply --root "$RIG_SCRATCH/stargz" "$RIG_SCRATCH/profile.json" >/dev/null || die "no profile"
  fi
  mark=$(rig_mark)
  measure_pull stargz "$PROXY/$IMAGE:esgz"
  measure_run stargz "$PROXY/$IMAGE:esgz" "profile-$1-$BASHPID-$SRANDOM" python3 -c "$PROGRAM"
  read -r bytes requests < <(rig_served "$mark")
  FIRSTS[$1]+=" $FIRST_MS" TOTALS[$1]+=" $((PULL_MS + FIRST_MS))" BYTES[$1]+=" $bytes" REQUESTS[$1]+=" $requests"
  say "  $1: pull $(seconds "$PULL_MS") s, first output $(seconds "$FIRST_MS") s, $(megabytes "$bytes") MB in $requests requests"
}

# row WHAT FORMAT WITHOUT-LIST WITH-LIST: prints the medians of two lists and their ratio.
row() {
  local without with
  # shellcheck disable=SC2086 # lists of numbers
  without=$(median $3) with=$(median $4)
  printf '%-22s %12s %12s %8s\n' "$1" "$("$2" "$without")" "$("$2" "$with")" "$(ratio "$with" "$without")"
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
      --wait) WAIT=true && set -- x "$@" ;;
      *) die "usage: profile.sh [-n RUNS] [--rtt MS] [--mbit N] [--image NAME] [--wait]" ;;
    esac
    shift 2
  done
  PROGRAM='import numpy, pandas, scipy; print(numpy.__version__, pandas.__version__, scipy.__version__)'
  [[ $IMAGE == pydata ]] || PROGRAM='import numpy; print(numpy.__version__)'
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
  PROXY=127.0.0.1:$(rig_free_port)
  rig_spawn proxy "$(dirname "$BIN")/examples/wan-proxy" "$PROXY" "$RIG_REGISTRY" "$RTT" "$MBIT"
  rig_ready proxy "the proxy" rig_connects "$PROXY"
  say "the start that records"
  one without
  FIRSTS=() TOTALS=() BYTES=() REQUESTS=()
  rig_stop stargz INT
  "$BIN" profile export --root "$RIG_SCRATCH/stargz" "$PROXY/$IMAGE:esgz" >"$RIG_SCRATCH/profile.json" ||
    die "nothing was recorded"
  say "a link of $RTT ms and $MBIT Mbit/s, $RUNS runs each; a profile of $(wc -c <"$RIG_SCRATCH/profile.json") bytes"
  for ((run = 1; run <= RUNS; run++)); do
    say "run $run of $RUNS"
    one without
    one with
  done
  printf '\n%-22s %12s %12s %8s\n' "$IMAGE, medians of $RUNS" "without" "with profile" "ratio"
  row "run to output, s" seconds "${FIRSTS[without]}" "${FIRSTS[with]}"
  row "start (pull, run), s" seconds "${TOTALS[without]}" "${TOTALS[with]}"
  row "fetched, MB" megabytes "${BYTES[without]}" "${BYTES[with]}"
  row "requests for blobs" plain "${REQUESTS[without]}" "${REQUESTS[with]}"
}

main "$@"
