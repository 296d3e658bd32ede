# shellcheck shell=bash
#
# podman_cases.sh: cases of e2e.sh in which Podman and Buildah of the distribution use the layer store. To be sourced.

# shellcheck source=rig/podman.sh
. "$RIG_REPO/rig/podman.sh"

pod_pull() { pod pull --quiet --tls-verify=false "$(image "$1")" >/dev/null; }

# layers_shown: prints how many layers the store has mounted.
layers_shown() { rig_mounts_below "$STORE/mnt/.layers" | wc -l; }
# layer_uses: prints how many uses of layers the store has written down.
layer_uses() {
  cat "$STORE"/data/pool/*/uses 2>/dev/null | grep -o '"uses":[0-9]*' | awk -F: '{ sum += $2 } END { print sum + 0 }' || true
}
shown_are() { [[ $(layers_shown) == "$1" ]]; }

case_podman_runs_an_image_that_is_not_downloaded() {
  local mark bytes requests size
  with_store "$ON_DEMAND"
  mark=$(rig_mark)
  pod_pull python:esgz
  read -r bytes requests < <(rig_served "$mark")
  size=$("$TOOL" size "$(image python:esgz)")
  echo "note: pull fetched $bytes of $size bytes in $requests requests"
  at_most "bytes fetched by the pull" "$bytes" $((size / 20))
  equal "layers that are shown" "$(layers_shown)" 3
  contains "version of numpy" "$(pod_run --rm "$(image python:esgz)" python3 -c 'import numpy; print("numpy", numpy.__version__)')" "numpy "
  read -r bytes _ < <(rig_served "$mark")
  echo "note: pull and run fetched $bytes of $size bytes"
  at_most "bytes fetched" "$bytes" $((size / 2))
}

case_podman_pulls_in_parallel_share_layers_and_removal_frees_them() {
  local name jobs=() job
  with_store "$ON_DEMAND"
  for name in python nginx debian; do
    pod_pull "$name:esgz" &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do
    wait "$job"
  done
  # All three have the same base.
  equal "layers that are shown" "$(layers_shown)" 4
  equal "output" "$(pod_run --rm "$(image debian:esgz)" sh -c 'cd /usr/bin && echo *cat')" "cat zcat"
  contains "output" "$(pod_run --rm "$(image nginx:esgz)" nginx -v 2>&1)" "nginx version"
  pod rmi "$(image python:esgz)" >/dev/null
  rig_wait 60 "the layers of one image to go" shown_are 2
  pod system prune --all --force >/dev/null
  rig_wait 60 "all layers to go" shown_are 0
  equal "uses that are left" "$(layer_uses)" 0
  # And again: nothing of it is remembered for ever.
  pod_pull debian:esgz
  equal "output" "$(pod_run --rm "$(image debian:esgz)" echo again)" again
}

case_podman_cycles_leave_nothing_behind() {
  local before number
  with_store "$ON_DEMAND"
  pod_pull debian:esgz
  pod_run --rm "$(image debian:esgz)" true
  before="$(layer_uses) uses, $(rig_mounts_below "$RIG_SCRATCH" | wc -l) mounts"
  for number in {1..15}; do
    pod_run --rm "$(image debian:esgz)" true
  done
  for number in {1..35}; do
    pod create --name "c$number" --ulimit host "$(image debian:esgz)" true >/dev/null
    pod rm "c$number" >/dev/null
  done
  equal "what is there" "$(layer_uses) uses, $(rig_mounts_below "$RIG_SCRATCH" | wc -l) mounts" "$before"
  equal "layers that are shown" "$(layers_shown)" 1
}

case_podman_mounts_saves_commits_and_pushes_lazy_images() {
  local dir
  with_store "$ON_DEMAND"
  pod_pull debian:esgz
  dir=$(pod image mount "$(image debian:esgz)")
  [[ -x $dir/usr/bin/perl ]]
  pod image umount "$(image debian:esgz)" >/dev/null
  pod save --quiet --output "$RIG_SCRATCH/podman/saved.tar" "$(image debian:esgz)"
  at_least "bytes of the archive" "$(stat -c %s "$RIG_SCRATCH/podman/saved.tar")" 50000000
  pod create --name changed --ulimit host "$(image debian:esgz)" true >/dev/null
  echo 'of the host' >"$RIG_SCRATCH/podman/note"
  pod cp "$RIG_SCRATCH/podman/note" changed:/etc/note
  pod commit --quiet changed "$(image changed:1)" >/dev/null
  pod push --quiet --tls-verify=false "$(image changed:1)"
  pod rm changed >/dev/null
  pod rmi --all --force >/dev/null
  rig_wait 60 "all layers to go" shown_are 0
  # What was pushed is an ordinary image, and holds what the lazy one had.
  equal "output" "$(pod_run --rm --tls-verify=false --quiet "$(image changed:1)" sh -c 'cat /etc/note; ls /usr/bin/perl')" \
    $'of the host\n/usr/bin/perl'
  pod load --quiet --input "$RIG_SCRATCH/podman/saved.tar" >/dev/null
  equal "output of what was saved" "$(pod_run --rm "$(image debian:esgz)" ls /usr/bin/perl)" /usr/bin/perl
}

case_buildah_builds_on_a_lazy_image() {
  local mark bytes size container
  with_store "$ON_DEMAND"
  mark=$(rig_mark)
  printf 'FROM %s\nRUN echo built >/built && python3 -c "print(6 * 7)" >>/built\n' "$(image python:esgz)" >"$RIG_SCRATCH/podman/Containerfile"
  pod build --quiet --tls-verify=false --isolation chroot --network host --tag built -f "$RIG_SCRATCH/podman/Containerfile" \
    "$RIG_SCRATCH/podman/runtime" >/dev/null
  read -r bytes _ < <(rig_served "$mark")
  size=$("$TOOL" size "$(image python:esgz)")
  echo "note: the build fetched $bytes of $size bytes"
  at_most "bytes fetched" "$bytes" $((size / 2))
  equal "output" "$(pod_run --rm localhost/built cat /built)" $'built\n42'
  container=$(buildah from --pull-never "$(image python:esgz)")
  equal "output" "$(buildah run --isolation chroot "$container" -- python3 -c 'print(1)')" 1
  buildah rm "$container" >/dev/null
}

case_podman_runs_zstd_chunked() {
  local mark bytes requests size
  with_store "$ON_DEMAND"
  push_zstd_chunked debian
  mark=$(rig_mark)
  pod_pull debian:chunked
  read -r bytes requests < <(rig_served "$mark")
  size=$("$TOOL" size "$(image debian:chunked)")
  echo "note: pull fetched $bytes of $size bytes in $requests requests"
  at_most "bytes fetched by the pull" "$bytes" $((size / 10))
  equal "output" "$(pod_run --rm "$(image debian:chunked)" sh -c 'cd /usr/bin && echo *cat')" "cat zcat"
  contains "images" "$(pod images)" chunked
}

case_podman_pulls_ordinary_images_in_full() {
  with_store "$ON_DEMAND"
  pod_pull debian:org
  equal "layers that are shown" "$(layers_shown)" 0
  equal "output" "$(pod_run --rm "$(image debian:org)" echo ordinary)" ordinary
}

case_podman_pulls_from_a_private_registry() {
  with_store "$ON_DEMAND"
  rig_stop registry
  htpasswd -Bbn user secret >"$RIG_SCRATCH/htpasswd"
  rig_registry_start "$RIG_SCRATCH/storage" "$RIG_SCRATCH/htpasswd"
  equal "mode of the socket" "$(stat -c %a "$STORE/store.sock")" 600
  # Newer Podman runs the helper by itself, on each pull.
  printf '{"%s":{"username":"user","password":"secret"}}' "$(image debian:esgz)" | "$RIG_SCRATCH/podman/helper"
  pod pull --quiet --tls-verify=false --creds user:secret "$(image debian:esgz)" >/dev/null
  equal "layers that are shown" "$(layers_shown)" 1
  equal "output" "$(pod_run --rm "$(image debian:esgz)" echo private)" private
  # What a login wrote serves a store that was told nothing.
  pod rmi --all --force >/dev/null
  rig_stop store
  printf secret | pod login --tls-verify=false --username user --password-stdin "$RIG_REGISTRY" >/dev/null
  store_start
  pod_pull debian:esgz
  equal "layers that are shown" "$(layers_shown)" 1
}

case_restart_of_the_store_under_a_container() {
  with_store "$ON_DEMAND"
  pod_pull debian:esgz
  pod_run --detach --name long "$(image debian:esgz)" sleep 600 >/dev/null
  # What it needs to go on sleeping is in memory then.
  pod exec long sleep 0
  rig_stop store KILL
  store_start
  rig_wait 60 "the layer to be shown again" shown_are 1
  equal "uses" "$(layer_uses)" 1
  contains "containers that run" "$(pod ps --format '{{.Names}} {{.Status}}')" "long Up"
  equal "output of another container" "$(pod_run --rm "$(image debian:esgz)" sleep 0 && echo well)" well
  # Neither the image nor its new containers need the registry for what is there.
  rig_stop registry
  equal "output of one more" "$(pod_run --rm "$(image debian:esgz)" sleep 0 && echo well)" well
  pod kill long >/dev/null
  pod rm --force long >/dev/null
  rig_registry_start "$RIG_SCRATCH/storage"
  equal "output" "$(pod_run --rm "$(image debian:esgz)" sh -c 'cd /usr/bin && echo *cat')" "cat zcat"
  pod rmi --all --force >/dev/null
  rig_wait 60 "all layers to go" shown_are 0
}

case_signals_leave_no_mount_of_the_store() {
  local signal
  with_store "$ON_DEMAND"
  for signal in TERM INT; do
    pod_pull debian:esgz
    equal "layers that are shown" "$(layers_shown)" 1
    rig_stop store "$signal"
    equal "mounts after $signal" "$(rig_mounts_below "$STORE")" ""
    [[ ! -e $STORE/store.sock ]]
    store_start
    equal "output" "$(pod_run --rm "$(image debian:esgz)" echo back)" back
    pod rmi --all --force >/dev/null
  done
}

# As `podman unshare stargz-store` does it: a user who is root of a namespace of their own, where nothing but FUSE can be
# mounted. The overlay is mounted as rootless Podman mounts its own.
case_the_store_serves_a_user_namespace() {
  local dir=$RIG_SCRATCH/user digest path
  with_store "$ON_DEMAND"
  # Machines differ in who may open it.
  mknod "$RIG_SCRATCH/fuse" c 10 229
  chmod 666 "$RIG_SCRATCH/fuse"
  mount --bind "$RIG_SCRATCH/fuse" /dev/fuse
  mkdir -p "$dir"/{upper,work,merged}
  cp "$BIN" "$dir/stargz-store"
  chmod 755 "$RIG_SCRATCH" "$dir/stargz-store"
  chown -R nobody "$dir"
  digest=$(skopeo inspect --tls-verify=false --format '{{index .Layers 0}}' "docker://$(image debian:esgz)")
  path=$dir/mnt/$(image debian:esgz | tr -d '\n' | base64 -w0)/$digest
  # shellcheck disable=SC2016 # expanded by the shell in the namespace
  setpriv --reuid nobody --regid nogroup --clear-groups unshare --user --map-root-user --mount sh -ec '
    cd "$1"
    ./stargz-store --root data --addr store.sock --config "" mnt 2>log &
    for try in $(seq 300); do [ ! -S store.sock ] || break; sleep 0.1; done
    ln -s "$2/diff" lower
    mount -t overlay overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work merged
    cmp merged/usr/bin/perl "$2/diff/usr/bin/perl"
    echo new >merged/etc/motd
    umount merged
    kill $!
    wait $! || true
    ! grep " $1/" /proc/self/mountinfo' sh "$dir" "$path"
  umount /dev/fuse
}
