# shellcheck shell=bash
#
# measure.sh: what quickstart and the benchmarks have in common. To be sourced after lib.sh.
# shellcheck disable=SC2034 # results are variables that the sourcing script reads

# measure_build CARGO-ARGS...: builds in release mode; the path of the executable is in BIN afterwards.
measure_build() {
  rig_cargo
  say "building (release)"
  (cd "$RIG_REPO" && cargo build --release "$@") || die "the build failed"
  BIN=${CARGO_TARGET_DIR:-$RIG_REPO/target}/release/stargz
}

# measure_fresh: containerd and the snapshotter without images, and cold caches. The configuration of the daemon is
# the default one, or the text in MEASURE_CONFIG.
measure_fresh() {
  local mount
  rig_stop stargz INT
  rig_stop containerd
  rig_keepers_stop
  while read -r mount; do
    umount -l "$mount" || true
  done < <(rig_mounts_below "$RIG_SCRATCH" | tac)
  rm -rf "$RIG_SCRATCH/stargz" "$RIG_SCRATCH/containerd" "$RIG_RUN/containerd"
  rm -f "$RIG_LOG/stargz.log"
  rig_snapshotter_start "$BIN" "${MEASURE_CONFIG:-}"
  rig_containerd_start plain
  rig_drop_caches
}

# measure_pull SNAPSHOTTER IMAGE: pulls in full (overlayfs) or lazily (stargz); PULL_MS is the time it took.
measure_pull() {
  local begin command=pull plain=()
  [[ $1 == overlayfs ]] || command=rpull
  [[ $2 != 127.0.0.1:* ]] || plain=(--plain-http)
  begin=$(now)
  rig_ctr image "$command" "${plain[@]}" --snapshotter "$1" "$2" >"$RIG_LOG/pull.log" 2>&1 ||
    die "could not pull $2: $(tail -n 1 "$RIG_LOG/pull.log")"
  PULL_MS=$(($(now) - begin))
}

# measure_run SNAPSHOTTER IMAGE NAME COMMAND...: runs a container; FIRST_MS is the time until the first byte of its
# output, OUTPUT the first line of it.
measure_run() {
  local begin output rest
  begin=$(now)
  exec {output}< <(rig_run "$@" 2>"$RIG_LOG/run.log")
  IFS= read -r -n 1 -u "$output" OUTPUT || die "the container printed nothing: $(tail -n 1 "$RIG_LOG/run.log")"
  FIRST_MS=$(($(now) - begin))
  IFS= read -r -u "$output" rest || true
  OUTPUT+=$rest
  cat <&"$output" >/dev/null
  exec {output}<&-
}

# measure_layers: prints how many layers the snapshotter has mounted lazily since measure_fresh.
measure_layers() { grep -cE '"?remote-snapshot-prepared"?[:=] ?"?true' "$RIG_LOG/stargz.log" || true; }

# measure_backend: prints how the kernel shows the lazy layers.
measure_backend() {
  awk -v d="$RIG_SCRATCH/stargz/" 'index($5, d) == 1 {
      for (i = 6; $i != "-"; i++);
      type = $(i + 1)
      if (type == "erofs") print ($(i + 2) ~ /^\/dev\/loop/ ? "erofs-loop" : "erofs"), 1
      else if (type ~ /^fuse/) print "fuse", 2
      else if (type == "overlay") print "overlayfs", 3
    }' /proc/self/mountinfo | sort -u -k 2n | head -n 1 | cut -d ' ' -f 1
}

# measure_received IMAGE: prints the bytes that have come in on the network interfaces an image comes from: the
# loopback, or all others.
measure_received() {
  local local=0
  [[ $1 != 127.0.0.1:* && $1 != localhost:* ]] || local=1
  awk -F '[: ]+' -v local="$local" 'NR > 2 {
      sub(/^ +/, "")
      if (($1 == "lo") == local) sum += $2
    } END { printf "%.0f\n", sum }' /proc/net/dev
}

# ratio A B: prints A / B with two decimals.
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { if (b == 0) print "-"; else printf "%.2f\n", a / b }'; }
