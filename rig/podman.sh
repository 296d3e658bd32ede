# shellcheck shell=bash
#
# podman.sh: a private host for Podman with our layer store. To be sourced after lib.sh.
#
# Podman's state is below $RIG_SCRATCH/podman, the store's below $STORE. What calls these functions says in BIN where our
# executable is, and in IMAGES where images.sh made images.

STORE=$RIG_SCRATCH/store
export PODMAN_IGNORE_CGROUPSV1_WARNING=1

# with_store CONFIG: a fresh host for Podman, an empty store, all images in the registry; no containerd. CONFIG is the text
# of the store's configuration file.
with_store() {
  local name mount
  for name in stargz containerd registry store proxy; do
    rig_stop "$name"
  done
  while read -r mount; do
    umount -l "$mount" || true
  done < <(rig_mounts_below "$RIG_SCRATCH" | tac)
  rm -rf "$STORE" "$RIG_SCRATCH/podman"
  rm -f "$RIG_LOG"/*.log
  rig_storage "$IMAGES"
  rig_registry_start "$RIG_SCRATCH/storage"
  mkdir -p "$STORE" "$RIG_SCRATCH/podman/runtime"
  # What Podman knows of blobs of other runs.
  mkdir -p /var/lib/containers
  mountpoint -q /var/lib/containers || mount -t tmpfs -o size=64m fresh /var/lib/containers
  store_start "$1"
  cat >"$RIG_SCRATCH/podman/storage.conf" <<-TOML
	[storage]
	driver = "overlay"
	graphroot = "$RIG_SCRATCH/podman/root"
	runroot = "$RIG_SCRATCH/podman/run"
	[storage.options]
	additionallayerstores = ["$STORE/mnt:ref"]
	TOML
  cat >"$RIG_SCRATCH/podman/registries.conf" <<-TOML
	additional-layer-store-auth-helper = "$RIG_SCRATCH/podman/helper"
	TOML
  ln -sf "$(readlink -f "$BIN")" "$RIG_SCRATCH/podman/stargz-store-helper"
  printf '#!/bin/sh\nexec %s/podman/stargz-store-helper %s/store.sock\n' "$RIG_SCRATCH" "$STORE" >"$RIG_SCRATCH/podman/helper"
  chmod 755 "$RIG_SCRATCH/podman/helper"
  export CONTAINERS_STORAGE_CONF=$RIG_SCRATCH/podman/storage.conf
  export CONTAINERS_REGISTRIES_CONF=$RIG_SCRATCH/podman/registries.conf
  export XDG_RUNTIME_DIR=$RIG_SCRATCH/podman/runtime
}

# store_start [CONFIG]: the layer store; CONFIG is the text of its configuration file.
store_start() {
  [[ $# -eq 0 ]] || printf '%s\n' "$1" >"$STORE/config.toml"
  ln -sf "$(readlink -f "$BIN")" "$STORE/stargz-store"
  rig_spawn store "$STORE/stargz-store" --root "$STORE/data" --addr "$STORE/store.sock" --config "$STORE/config.toml" \
    --log-level debug "$STORE/mnt"
  rig_ready store "the layer store" rig_listens "$STORE/store.sock"
}

pod() {
  timeout 300 podman --cgroup-manager cgroupfs --events-backend file --runtime runc \
    --tmpdir "$RIG_SCRATCH/podman/tmp" "$@"
}
# Limits of the machine may be below what Podman would set.
pod_run() { pod run --network host --ulimit host --cgroup-parent "/$RIG_CGROUP" "$@"; }
