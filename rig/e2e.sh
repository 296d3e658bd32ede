#!/bin/bash
#
# e2e.sh [--bin FILE] [--backend NAME] [CASE...]: the snapshotter in a real containerd, against a real registry.
#
# Each case_* function below is a case: it starts from an empty host (containerd and the snapshotter without images,
# the registry with all of them), and fails at the first command that fails. Without arguments all cases run.
# NAME is the backend that the snapshotter is made to use.
# FILE is the executable `stargz`, target/debug/stargz by default. RIG_KEEP=1 keeps the logs.

# shellcheck source=rig/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

IMAGES=${RIG_IMAGES:-$RIG_REPO/.build/images}
TOOL=$RIG_REPO/rig/registry_tool.py
BIN=${CARGO_TARGET_DIR:-$RIG_REPO/target}/debug/stargz
# Only what is read is fetched, so that the cases know what is there.
# A read waits for a registry that is away until this deadline.
ON_DEMAND='noprefetch = true
no_background_fetch = true
[blob]
fetching_timeout_sec = 10'

# shellcheck source=rig/podman_cases.sh
. "$RIG_REPO/rig/podman_cases.sh"

# ---------------------------------------------------------------------------------------------------------
# A host for one case

# fresh: an empty host with all services up, the registry as it was made.
fresh() {
  local name mount
  for name in stargz containerd registry; do
    rig_stop "$name"
  done
  rig_keepers_stop
  while read -r mount; do
    umount -l "$mount" || true
  done < <(rig_mounts_below "$RIG_SCRATCH" | tac)
  rm -rf "$RIG_SCRATCH/stargz" "$RIG_SCRATCH/containerd" "$RIG_RUN/containerd"
  rm -f "$RIG_LOG"/*.log
  rig_storage "$IMAGES"
  rig_registry_start "$RIG_SCRATCH/storage"
  rig_snapshotter_start "$BIN" "$ON_DEMAND"
  rig_containerd_start plain
}

image() { printf '%s/%s\n' "$RIG_REGISTRY" "$1"; }
pull() { rig_ctr image rpull --plain-http --snapshotter stargz "${@:2}" "$(image "$1")" >/dev/null; }
pull_in_full() { rig_ctr image pull --plain-http --snapshotter "$1" "$(image "$2")" >/dev/null; }

# run IMAGE COMMAND...: runs a container of a pulled image; prints what it prints.
run() { rig_run stargz "$(image "$1")" "c$((++RUNS))-$BASHPID" "${@:2}"; }
RUNS=0

# start IMAGE NAME [CTR-OPTIONS... --] COMMAND...: starts a container that goes on until `kill_container NAME`.
start() { RIG_DETACH=1 rig_run stargz "$(image "$1")" "${@:2}"; }
kill_container() {
  rig_ctr task kill -s KILL "$1"
  rig_wait 20 "container $1 to stop" container_stopped "$1"
  rig_ctr task delete "$1" || true
  rig_ctr container delete "$1"
}
container_stopped() { ! rig_ctr task ls | grep -q "^$1 .*RUNNING"; }

# restart_snapshotter [SIGNAL]: ends the daemon and starts it again.
restart_snapshotter() {
  rig_stop stargz "${1:-TERM}"
  rig_snapshotter_start "$BIN"
  rig_reconnect
}

# layers_prepared STATE: prints how many layers the snapshotter has mounted lazily (true) or left to containerd (false).
layers_prepared() { grep -cE "\"?remote-snapshot-prepared\"?[:=] ?\"?$1" "$RIG_LOG/stargz.log" || true; }

# push_zstd_chunked NAME: makes NAME:chunked of NAME:org, as Podman's tools do.
push_zstd_chunked() {
  # Only what is not compressed is compressed in another way.
  skopeo copy --quiet --src-tls-verify=false --dest-decompress "docker://$(image "$1:org")" \
    "dir:$RIG_SCRATCH/plain"
  # Or it would find out that the registry has the same contents already, compressed with gzip.
  mkdir -p /var/lib/containers/cache
  mount -t tmpfs -o size=16m fresh /var/lib/containers/cache
  skopeo copy --quiet --dest-tls-verify=false --format oci --dest-compress-format zstd:chunked \
    "dir:$RIG_SCRATCH/plain" "docker://$(image "$1:chunked")"
  umount /var/lib/containers/cache
  rm -rf "$RIG_SCRATCH/plain"
}

# Prints everything that can be seen of an image's tree, what the runtime mounts over it left out; then the digest
# of every file.
# shellcheck disable=SC2016 # expanded in the container
LIST_TREE='
  skip="-path /proc -o -path /sys -o -path /dev -o -path /run -o -path /etc/resolv.conf -o -path /etc/hosts"
  find / -xdev -mindepth 1 \( $skip \) -prune -o \( \
    -type d -printf "%p %y %m %U:%G %T@\n" -o -type l -printf "%p %y %m %U:%G %T@ -> %l\n" -o \
    -printf "%p %y %m %U:%G %T@ %s bytes %n links\n" \) | LC_ALL=C sort
  find / -xdev \( $skip \) -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum'

# reference_tree NAME: prints the name of a file with LIST_TREE of an image that overlayfs runs from a full pull.
reference_tree() {
  local list=$RIG_SCRATCH/reference.$1
  if [[ ! -e $list ]]; then
    pull_in_full overlayfs "$1:org" >&2
    rig_run overlayfs "$(image "$1:org")" "reference-$1" sh -ec "$LIST_TREE" >"$list.tmp"
    mv "$list.tmp" "$list"
  fi
  printf '%s\n' "$list"
}

# same_tree NAME IMAGE: the tree that IMAGE shows through us is the one that overlayfs shows of NAME:org.
same_tree() {
  local reference
  reference=$(reference_tree "$1")
  run "$2" sh -ec "$LIST_TREE" >"$RIG_SCRATCH/tree"
  (($(wc -l <"$reference") > 5000))
  if ! diff "$reference" "$RIG_SCRATCH/tree" >"$RIG_SCRATCH/tree.diff"; then
    echo "$(grep -c '^[<>]' "$RIG_SCRATCH/tree.diff") lines differ (< overlayfs, > us), for example:"
    head -n 10 "$RIG_SCRATCH/tree.diff"
    return 1
  fi
}

equal() { [[ $2 == "$3" ]] || fail "$1: got '$2', expected '$3'"; }
at_most() { (($2 <= $3)) || fail "$1: $2, expected at most $3"; }
at_least() { (($2 >= $3)) || fail "$1: $2, expected at least $3"; }
contains() { [[ $2 == *"$3"* ]] || fail "$1: got '$2', expected it to contain '$3'"; }
fail() {
  printf 'FAILED: %s\n' "$*"
  return 1
}

# ---------------------------------------------------------------------------------------------------------
# Cases: the main road

case_pull_takes_manifests_and_tocs_only() {
  local mark bytes requests size
  mark=$(rig_mark)
  pull python:esgz
  read -r bytes requests < <(rig_served "$mark")
  size=$("$TOOL" size "$(image python:esgz)")
  echo "note: pull fetched $bytes of $size bytes in $requests requests"
  equal "layers mounted lazily" "$(layers_prepared true)" 3
  at_most "bytes fetched by the pull" "$bytes" $((size / 20))
  at_most "requests for three layers" "$requests" 12
}

case_debian_runs() {
  pull debian:esgz
  equal "output" "$(run debian:esgz bash -c 'cd /usr/bin && echo *cat')" "cat zcat"
}

case_python_imports_numpy() {
  local mark bytes size
  mark=$(rig_mark)
  pull python:esgz
  contains "version of numpy" "$(run python:esgz python3 -c 'import numpy; print("numpy", numpy.__version__)')" "numpy "
  read -r bytes _ < <(rig_served "$mark")
  size=$("$TOOL" size "$(image python:esgz)")
  echo "note: pull and run fetched $bytes of $size bytes"
  at_most "bytes fetched" "$bytes" $((size / 2))
}

case_nginx_serves_a_page() {
  local port page
  port=$(rig_free_port)
  mkdir -p "$RIG_SCRATCH/nginx"
  cat >"$RIG_SCRATCH/nginx/nginx.conf" <<-CONF
	daemon off; pid /tmp/nginx.pid; error_log stderr; events {}
	http { access_log off; server { listen 127.0.0.1:$port; root /var/www/html; } }
	CONF
  pull nginx:esgz
  start nginx:esgz web --mount "type=bind,src=$RIG_SCRATCH/nginx,dst=/mnt,options=rbind:ro" -- nginx -c /mnt/nginx.conf
  rig_wait 30 "nginx on port $port" rig_connects "127.0.0.1:$port"
  page=$(curl -sS --max-time 20 "http://127.0.0.1:$port/")
  kill_container web
  equal "page" "$page" "a page from an image"
}

case_tree_of_python_is_the_same_as_overlayfs_shows() {
  pull python:esgz
  same_tree python python:esgz
}

case_tree_with_removed_and_replaced_files_is_the_same() {
  pull nginx:esgz
  same_tree nginx nginx:esgz
}

case_containers_write_to_their_own_layer() {
  pull debian:esgz
  # shellcheck disable=SC2016 # expanded in the container
  equal "output" "$(run debian:esgz sh -ec 'echo new >/etc/motd; rm /usr/bin/perl; mv /etc/apt /etc/apt2
    chmod 600 /etc/passwd; cat /etc/motd; ls /usr/bin/perl 2>/dev/null || echo gone; ls -d /etc/apt2')" $'new\ngone\n/etc/apt2'
  equal "output of another container" "$(run debian:esgz sh -ec 'test -x /usr/bin/perl; stat -c %a /etc/passwd')" 644
}

case_kubernetes_pull_is_lazy() {
  rig_stop containerd
  rig_containerd_start cri
  /usr/bin/python3 "$RIG_REPO/rig/cri_pull.py" "$RIG_CONTAINERD" "$(image python:esgz)"
  equal "layers mounted lazily" "$(layers_prepared true)" 3
  contains "output" "$(RIG_NS=k8s.io run python:esgz python3 -c 'import numpy; print(numpy.__name__)')" numpy
}

# What Podman, Buildah and skopeo push: no digest of the TOC among the annotations that containerd passes on.
case_zstd_chunked_of_podmans_tools_is_pulled_lazily() {
  local mark bytes requests
  push_zstd_chunked nginx
  mark=$(rig_mark)
  pull nginx:chunked
  read -r bytes requests < <(rig_served "$mark")
  echo "note: pull fetched $bytes bytes in $requests requests"
  equal "layers that were not pulled lazily" "$(layers_prepared false)" 0
  at_most "bytes fetched by the pull" "$bytes" 4000000
  same_tree nginx nginx:chunked
}

case_zstd_chunked_of_the_converter_is_pulled_lazily() {
  pull_in_full overlayfs nginx:org
  rig_ctr image convert --oci --zstdchunked "$(image nginx:org)" "$(image nginx:zstd)" >/dev/null
  rig_ctr image push --plain-http "$(image nginx:zstd)" >/dev/null
  rig_ctr image rm "$(image nginx:zstd)" "$(image nginx:org)" >/dev/null
  pull nginx:zstd
  equal "layers that were not pulled lazily" "$(layers_prepared false)" 0
  same_tree nginx nginx:zstd
}

case_tocs_in_an_image_of_their_own_are_found() {
  local toc
  pull_in_full overlayfs nginx:org
  our_ctr image convert --oci --estargz --estargz-external-toc --estargz-compression-level 3 \
    "$(image nginx:org)" "$(image nginx:external)" >"$RIG_SCRATCH/converted"
  toc=$(image nginx:external-esgztoc)
  contains "what the converter says" "$(cat "$RIG_SCRATCH/converted")" "extra image: $toc"
  rig_ctr image push --plain-http "$(image nginx:external)" >/dev/null
  rig_ctr image push --plain-http "$toc" >/dev/null
  rig_ctr image rm --sync "$toc" "$(image nginx:external)" "$(image nginx:org)" >/dev/null
  pull nginx:external
  equal "layers that were not pulled lazily" "$(layers_prepared false)" 0
  same_tree nginx nginx:external
}

# As many layers as overlayfs and the registries' manifests are ever asked for: their paths together are longer than
# the page that mount(2) takes.
case_image_of_120_layers() {
  local layers=$RIG_SCRATCH/many number names=base
  mkdir -p "$layers/base/"{bin,etc,proc,sys,dev,run,tmp,d}
  touch "$layers/base/etc/"{hosts,resolv.conf}
  cp "$(command -v busybox)" "$layers/base/bin/busybox"
  ln -s busybox "$layers/base/bin/sh"
  for ((number = 1; number < 120; number++)); do
    mkdir -p "$layers/l$number/d"
    echo "$number" >"$layers/l$number/d/top"
    head -c 5000 /dev/urandom >"$layers/l$number/d/only.$number"
    names+=,l$number
  done
  /usr/bin/python3 "$RIG_REPO/rig/oci_layout.py" "$RIG_SCRATCH/many.oci" "$layers" "rig/many:org=$names"
  tar -C "$RIG_SCRATCH/many.oci" -c . | rig_ctr image import --no-unpack - >/dev/null
  rig_ctr image convert --estargz --oci rig/many:org rig/many:esgz >/dev/null
  rig_ctr image push --plain-http "$(image many:esgz)" rig/many:esgz >/dev/null
  rig_ctr image rm rig/many:org rig/many:esgz >/dev/null
  pull many:esgz
  equal "layers mounted lazily" "$(layers_prepared true)" 120
  equal "what the container sees" \
    "$(run many:esgz sh -c 'busybox cat /d/top; busybox ls /d | busybox wc -l; busybox cat /d/only.* | busybox wc -c')" \
    $'119\n120\n595000'
}

# ---------------------------------------------------------------------------------------------------------
# Cases: layers that are not lazy

case_plain_image_falls_back() {
  pull python:org
  equal "layers mounted lazily" "$(layers_prepared true)" 0
  same_tree python python:org
}

case_pull_without_labels_unpacks() {
  pull_in_full stargz debian:esgz
  equal "layers mounted lazily" "$(layers_prepared true)" 0
  equal "output" "$(run debian:esgz echo unpacked)" unpacked
}

case_lazy_layer_below_a_plain_one() {
  "$TOOL" mix "$(image nginx)" esgz org mixed 1
  pull nginx:mixed
  equal "layers mounted lazily" "$(layers_prepared true)" 1
  same_tree nginx nginx:mixed
}

case_plain_layer_below_a_lazy_one() {
  "$TOOL" mix "$(image nginx)" esgz org mixed 0
  pull nginx:mixed
  same_tree nginx nginx:mixed
}

# ---------------------------------------------------------------------------------------------------------
# Cases: the daemon stops and starts

case_restart_keeps_images() {
  local mark bytes
  pull python:esgz
  run python:esgz python3 -c 'import numpy'
  restart_snapshotter
  mark=$(rig_mark)
  run python:esgz python3 -c 'import numpy'
  read -r bytes _ < <(rig_served "$mark")
  equal "bytes fetched again" "$bytes" 0
}

case_complete_image_needs_no_registry() {
  pull python:esgz
  same_tree python python:esgz
  restart_snapshotter
  rig_stop registry
  same_tree python python:esgz
  restart_snapshotter
  same_tree python python:esgz
}

case_registry_down_at_start() {
  local out begin
  pull debian:esgz
  run debian:esgz bash -c 'ls -l / >/dev/null; cat /etc/passwd >/dev/null'
  rig_stop registry
  restart_snapshotter
  # What was read is there, all metadata is there, what is missing is an error and not a hang.
  contains "metadata" "$(run debian:esgz ls -l /usr/bin/perl)" /usr/bin/perl
  contains "data" "$(run debian:esgz cat /etc/passwd)" root:x:0:0
  begin=$(now)
  out=$(run debian:esgz cat /usr/bin/perl 2>&1 >/dev/null) && fail "a file whose data is missing could be read"
  echo "note: a read without a registry failed after $(seconds $(($(now) - begin))) s"
  at_most "milliseconds until the error" $(($(now) - begin)) 60000
  contains "error" "$out" "Input/output error"
  rig_registry_start "$RIG_SCRATCH/storage"
  rig_wait 60 "the file to be readable again" run debian:esgz cat /usr/bin/perl
  same_tree debian debian:esgz
}

case_kill_and_start_again() {
  local before
  pull python:esgz
  run python:esgz python3 -c 'import numpy'
  before=$(rig_mounts_below "$RIG_SCRATCH/stargz" | wc -l)
  mkdir -p "$RIG_SCRATCH/stargz/snapshotter/snapshots/"{new-900,901/fs}
  restart_snapshotter KILL
  run python:esgz python3 -c 'import numpy'
  [[ ! -e $RIG_SCRATCH/stargz/snapshotter/snapshots/new-900 ]] || fail "an unfinished snapshot was left"
  [[ ! -e $RIG_SCRATCH/stargz/snapshotter/snapshots/901 ]] || fail "a snapshot that was never committed was left"
  at_most "mounts" "$(rig_mounts_below "$RIG_SCRATCH/stargz" | wc -l)" "$before"
  same_tree python python:esgz
}

case_interrupt_unmounts_everything() {
  pull nginx:esgz
  at_least "mounts" "$(rig_mounts_below "$RIG_SCRATCH/stargz" | wc -l)" 2
  rig_stop stargz INT
  equal "mounts" "$(rig_mounts_below "$RIG_SCRATCH/stargz")" ""
  restart_snapshotter
  equal "output" "$(run nginx:esgz echo again)" again
}

case_removed_image_leaves_nothing() {
  pull nginx:esgz
  run nginx:esgz cat /var/www/html/index.html
  rig_ctr image rm --sync "$(image nginx:esgz)"
  rig_wait 30 "snapshots to be removed" no_snapshots
  no_snapshots || fail "left: $(ls "$RIG_SCRATCH/stargz/snapshotter/snapshots") $(mounted_snapshots)"
  pull nginx:esgz
  equal "output" "$(run nginx:esgz echo again)" again
}
mounted_snapshots() { rig_mounts_below "$RIG_SCRATCH/stargz/snapshotter/snapshots"; }
no_snapshots() { [[ -z $(ls "$RIG_SCRATCH/stargz/snapshotter/snapshots")$(mounted_snapshots) ]]; }

# ---------------------------------------------------------------------------------------------------------
# Cases: the registry

# htpasswd_of FILE USER PASSWORD: a file of passwords with one in it.
htpasswd_of() {
  # shellcheck disable=SC2016 # Perl's variables
  printf '%s:%s\n' "$2" "$(perl -e 'print crypt($ARGV[0], q($2y$05$abcdefghijklmnopqrstuu))' "$3")" >"$1"
}

# docker_config DIR USER PASSWORD: docker's configuration file with one credential for the registry.
docker_config() {
  local auth
  auth=$(printf '%s:%s' "$2" "$3" | base64 -w 0)
  printf '{"auths": {"%s": {"auth": "%s"}}}\n' "$RIG_REGISTRY" "$auth" >"$1/config.json.new"
  mv "$1/config.json.new" "$1/config.json"
}

# never_logged SECRET...: our log has none of them, as they are or in base64.
never_logged() {
  local secret
  for secret; do
    if grep -qF -e "$secret" -e "$(printf 'user:%s' "$secret" | base64 -w 0)" "$RIG_LOG/stargz.log"; then
      fail "a secret is in the log"
    fi
  done
}

# read_with_kubernetes DIR: reads all regular files below DIR in a container of the image that Kubernetes has pulled,
# and checks that the registry was needed for that.
read_with_kubernetes() {
  local mark bytes
  mark=$(rig_mark)
  RIG_NS=k8s.io run python:esgz find "$1" -xdev -type f -exec cat {} + >/dev/null
  read -r bytes _ < <(rig_served "$mark")
  at_least "bytes fetched for $1" "$bytes" 1000
}

case_private_registry() {
  local docker=$RIG_SCRATCH/docker
  mkdir -p "$docker"
  htpasswd_of "$docker/htpasswd" user secret
  rig_stop registry
  rig_registry_start "$RIG_SCRATCH/storage" "$docker/htpasswd"
  if pull python:esgz 2>/dev/null; then fail "the registry asked for no password"; fi

  echo '{"auths": {}}' >"$docker/config.json"
  DOCKER_CONFIG=$docker restart_snapshotter
  docker_config "$docker" user secret
  pull python:esgz --user user:secret
  equal "layers mounted lazily" "$(layers_prepared true)" 3
  contains "output" "$(run python:esgz python3 --version)" Python
}

case_kubernetes_credentials_are_kept_and_renewed() {
  local docker=$RIG_SCRATCH/docker first=first-hunter2 second=second-hunter2 store=$RIG_SCRATCH/stargz/credentials
  mkdir -p "$docker"
  htpasswd_of "$docker/htpasswd" user "$first"
  rig_stop registry
  rig_registry_start "$RIG_SCRATCH/storage" "$docker/htpasswd"
  echo '{"auths": {}}' >"$docker/config.json"
  export DOCKER_CONFIG=$docker
  rig_stop stargz
  rig_snapshotter_start "$BIN" "$ON_DEMAND
	[cri_keychain]
	enable_keychain = true
	image_service_path = \"$RIG_CONTAINERD\"
	persist = true"
  rig_stop containerd
  rig_containerd_start cri
  # The kubelet talks to our socket.
  if /usr/bin/python3 "$RIG_REPO/rig/cri_pull.py" "$RIG_STARGZ" "$(image python:esgz)" 2>/dev/null; then
    fail "the registry asked for no password"
  fi
  CRI_PASSWORD=$first /usr/bin/python3 "$RIG_REPO/rig/cri_pull.py" "$RIG_STARGZ" "$(image python:esgz)" user
  equal "layers mounted lazily" "$(layers_prepared true)" 3
  read_with_kubernetes /usr/bin
  never_logged "$first"

  # Nobody tells the new process a credential.
  equal "mode of the key" "$(stat -c %a "$store/key")" 600
  if grep -rqF "$first" "$store"; then fail "the store is not sealed"; fi
  restart_snapshotter
  read_with_kubernetes /usr/share
  RIG_NS=k8s.io start python:esgz keeps-running sleep 1000
  # The password is another one, and the one that was learned is of no use any more.
  htpasswd_of "$docker/htpasswd" user "$second"
  rig_stop registry
  rig_registry_start "$RIG_SCRATCH/storage" "$docker/htpasswd"
  docker_config "$docker" user "$second"
  read_with_kubernetes /usr/lib
  # shellcheck disable=SC2016 # expanded in the container
  contains "output of a container from before" "$(RIG_NS=k8s.io rig_ctr task exec --exec-id read keeps-running \
    /opt/venv/bin/python3 -c 'import numpy; print(numpy.__name__)')" numpy
  RIG_NS=k8s.io kill_container keeps-running
  never_logged "$first" "$second"
}

case_mirrors_of_hosts_toml_are_used() {
  local certs=$RIG_SCRATCH/certs.d down
  down=127.0.0.1:$(rig_free_port)
  mkdir -p "$certs/registry.example"
  cat >"$certs/registry.example/hosts.toml" <<-TOML
	server = "https://registry.example"
	[host."http://$down"]
	  capabilities = ["pull", "resolve"]
	[host."http://$RIG_REGISTRY"]
	  capabilities = ["pull", "resolve"]
	TOML
  rig_stop stargz
  rig_snapshotter_start "$BIN" "$ON_DEMAND
	[registry]
	config_path = \"$certs\""
  rig_reconnect
  rig_ctr image rpull --hosts-dir "$certs" --snapshotter stargz registry.example/python:esgz >/dev/null
  equal "layers mounted lazily" "$(layers_prepared true)" 3
  contains "output" "$(rig_run stargz registry.example/python:esgz mirrored python3 --version)" Python
}

case_corrupt_chunk_is_an_error() {
  local out
  "$TOOL" corrupt "$RIG_SCRATCH/storage" "$(image debian:esgz)" usr/bin/perl
  pull debian:esgz
  out=$(run debian:esgz cat /usr/bin/perl 2>&1 >/dev/null) && fail "a corrupt file could be read"
  contains "error" "$out" "Input/output error"
  out=$(run debian:esgz cat /usr/bin/perl 2>&1 >/dev/null) && fail "a corrupt file could be read the second time"
  run debian:esgz sh -c "$LIST_TREE" >"$RIG_SCRATCH/tree" 2>/dev/null || true
  diff "$(reference_tree debian)" "$RIG_SCRATCH/tree" >"$RIG_SCRATCH/tree.diff" || true
  # perl and its hard link, perl5.*, are one file; every other file is there.
  equal "files that differ" "$(sed -n 's/^[<>] [0-9a-f]\{64\}  //p' "$RIG_SCRATCH/tree.diff" | sort -u |
    sed 's/[0-9].*/*/' | tr '\n' ' ')" "/usr/bin/perl /usr/bin/perl* "
  rig_pid stargz >/dev/null || fail "the daemon died"
}

case_corrupt_toc_falls_back_to_a_full_pull() {
  # The layer of the manifest is intact, the digest that it claims for its table of contents is not.
  "$TOOL" claim "$(image debian)" esgz claimed "sha256:$(printf '%064d' 0)"
  pull debian:claimed
  equal "layers mounted lazily" "$(layers_prepared true)" 0
  equal "output" "$(run debian:claimed echo unpacked)" unpacked
}

# ---------------------------------------------------------------------------------------------------------
# Cases: without containerd

# own_state: `stargz mount` keeps its state in /var/lib/stargz; here in the scratch directory.
own_state() {
  mkdir -p /var/lib/stargz "$RIG_SCRATCH/state"
  mountpoint -q /var/lib/stargz || mount --bind "$RIG_SCRATCH/state" /var/lib/stargz
}

case_stargz_mount_shows_an_image() {
  local dir=$RIG_SCRATCH/mnt reference
  reference=$(reference_tree nginx)
  mkdir -p "$dir"
  own_state
  "$BIN" mount "$(image nginx:esgz)" "$dir"
  equal "page" "$(cat "$dir/var/www/html/index.html")" "a page from an image"
  (cd "$dir" && find . -xdev -type f ! -path ./etc/resolv.conf ! -path ./etc/hosts ! -path './dev/*' ! -path './run/*' -print0 |
    LC_ALL=C sort -z | xargs -0 sha256sum | sed 's|  \./|  /|') >"$RIG_SCRATCH/tree"
  diff <(grep -E '^[0-9a-f]{64}  ' "$reference") "$RIG_SCRATCH/tree" | head -n 10
  if touch "$dir/new" 2>/dev/null; then fail "the mount can be written to"; fi
  "$BIN" umount "$dir"
  equal "mounts" "$(rig_mounts_below "$dir")" ""
}

case_stargz_mount_says_what_is_wrong() {
  local dir=$RIG_SCRATCH/mnt out
  mkdir -p "$dir"
  own_state
  out=$("$BIN" mount "$(image no/such/image:1)" "$dir" 2>&1) && fail "an image that is not there was mounted"
  contains "error" "$out" "no/such/image"
  out=$("$BIN" umount "$dir" 2>&1) && fail "what is not mounted was unmounted"
  contains "error" "$out" "$dir"
}

# ---------------------------------------------------------------------------------------------------------
# Cases: ctr-remote

# our_ctr ARGS...: our own ctr-remote against the private containerd.
our_ctr() {
  ln -sf "$BIN" "$RIG_SCRATCH/ctr-remote"
  RIG_CTR=$RIG_SCRATCH/ctr-remote rig_ctr "$@"
}

# nothing_left: no lease and no write is left in containerd.
nothing_left() {
  equal "leases" "$(rig_ctr leases ls -q)" ""
  equal "writes" "$(rig_ctr content active | tail -n +2)" ""
}

# top_layer IMAGE: prints the digest of the topmost layer of an image in containerd.
top_layer() {
  rig_ctr content get "$(image_digest "$1")" | /usr/bin/python3 -c 'import json, sys
print(json.load(sys.stdin)["layers"][-1]["digest"])'
}

image_digest() { rig_ctr image ls "name==$1" | awk 'NR == 2 { print $3 }'; }

# toc PROGRAM LAYER: prints the digest of what PROGRAM shows as the TOC, in one spelling.
toc() {
  "$1" image get-toc-digest --dump-toc "$2" | /usr/bin/python3 -c 'import json, sys
print(json.dumps(json.load(sys.stdin), sort_keys=True))' | sha256sum
}

# Prints how many bytes of blobs the registry served since a mark, when no more come for two seconds.
settled() {
  local last=-1 bytes=0
  while ((bytes != last)); do
    last=$bytes
    sleep 2
    read -r bytes _ < <(rig_served "$1")
  done
  echo "$bytes"
}

case_optimized_image_prefetches_what_its_program_touches() {
  local mark first second program='import numpy; print("numpy", numpy.__version__)'
  rig_stop stargz
  rig_snapshotter_start "$BIN" 'no_background_fetch = true'
  rig_reconnect
  pull_in_full overlayfs python:org
  contains "output of the workload" "$(our_ctr image optimize --oci --net-host --period 120 --estargz-compression-level 3 \
    --record-out "$RIG_SCRATCH/record" --entrypoint '["python3", "-c"]' --args "[\"${program//\"/\\\"}\"]" \
    "$(image python:org)" "$(image python:fast)" 2>&1)" "numpy "
  contains "record" "$(cat "$RIG_SCRATCH/record")" '"layerIndex":2'
  equal "containers left" "$(rig_ctr container ls -q)" ""
  equal "leases left" "$(rig_ctr leases ls -q)" ""
  rig_ctr image push --plain-http "$(image python:fast)" >/dev/null
  rig_ctr image rm --sync "$(image python:org)" "$(image python:fast)" >/dev/null
  mark=$(rig_mark)
  pull python:fast
  equal "layers that were not pulled lazily" "$(layers_prepared false)" 0
  first=$(settled "$mark")
  mark=$(rig_mark)
  contains "version of numpy" "$(run python:fast python3 -c "$program")" "numpy "
  second=$(settled "$mark")
  echo "note: $first bytes before the start, $second after it"
  at_most "bytes fetched by the run" "$second" $((first / 10))
  same_tree python python:fast
}

case_ctr_remote_converts_what_overlayfs_and_we_run() {
  local target printed layer theirs
  target=$(image debian:ours)
  pull_in_full overlayfs debian:org
  printed=$(our_ctr image convert --estargz --oci "$(image debian:org)" "$target")
  equal "digest that was printed" "$printed" "$(image_digest "$target")"
  nothing_left
  layer=$(top_layer "$target")
  equal "digest of our TOC" "$(our_ctr image get-toc-digest "$layer")" "$(rig_ctr image get-toc-digest "$layer")"
  equal "TOC" "$(toc our_ctr "$layer")" "$(toc rig_ctr "$layer")"
  rig_ctr image convert --estargz --oci "$(image debian:org)" "$(image debian:theirs)" >/dev/null
  theirs=$(top_layer "$(image debian:theirs)")
  equal "digest of their TOC" "$(our_ctr image get-toc-digest "$theirs")" "$(rig_ctr image get-toc-digest "$theirs")"
  our_ctr image push --plain-http "$target" >/dev/null
  rig_ctr image rm --sync "$target" "$(image debian:theirs)" >/dev/null
  pull_in_full overlayfs debian:ours
  equal "output over overlayfs" "$(rig_run overlayfs "$target" plain bash -c 'cd /usr/bin && echo *cat')" "cat zcat"
  rig_ctr image rm --sync "$target" >/dev/null
  our_ctr image rpull --plain-http "$target" >/dev/null
  equal "layers mounted lazily" "$(layers_prepared true)" 1
  same_tree debian debian:ours
}

case_ctr_remote_pulls_lazily() {
  local labels
  contains "lines" "$(our_ctr image rpull --plain-http --label kind=test "$(image python:esgz)")" "fetching sha256:"
  equal "layers mounted lazily" "$(layers_prepared true)" 3
  contains "image" "$(rig_ctr image ls "name==$(image python:esgz)")" "kind=test"
  nothing_left
  contains "output" "$(run python:esgz python3 -c 'import numpy; print("numpy", numpy.__version__)')" "numpy "
  rig_ctr image rm --sync "$(image python:esgz)" >/dev/null
  our_ctr image rpull --plain-http --use-containerd-labels "$(image debian:esgz)" >/dev/null
  equal "layers mounted lazily" "$(layers_prepared true)" 4
  labels=$(rig_ctr snapshots --snapshotter stargz ls | awk 'NR > 1 { print $1 }' | while read -r key; do
    rig_ctr snapshots --snapshotter stargz info "$key"
  done)
  contains "labels" "$labels" "containerd.io/snapshot/cri.layer-digest"
  equal "output" "$(run debian:esgz bash -c 'cd /usr/bin && echo *cat')" "cat zcat"
}

case_ctr_remote_pulls_in_full_what_is_not_lazy() {
  our_ctr image rpull --plain-http "$(image debian:org)" >/dev/null
  equal "layers mounted lazily" "$(layers_prepared true)" 0
  nothing_left
  equal "output" "$(run debian:org bash -c 'cd /usr/bin && echo *cat')" "cat zcat"
  our_ctr image rpull --plain-http --snapshotter overlayfs "$(image debian:org)" >/dev/null
  equal "output" "$(rig_run overlayfs "$(image debian:org)" plain bash -c 'cd /usr/bin && echo *cat')" "cat zcat"
}

case_ctr_remote_leaves_nothing_behind_when_it_fails() {
  local out pid
  out=$(our_ctr image rpull --plain-http "$(image no/such:1)" 2>&1) && fail "an image that is not there was pulled"
  contains "error" "$out" "no/such"
  out=$(our_ctr image convert --estargz --oci "$(image no/such:1)" "$(image x:1)" 2>&1) && fail "nothing was converted"
  contains "error" "$out" "there is no image"
  out=$(our_ctr image convert --zstdchunked a b 2>&1) && fail "zstd:chunked without --oci"
  contains "error" "$out" "--oci"
  pull_in_full overlayfs python:org
  ln -sf "$BIN" "$RIG_SCRATCH/ctr-remote"
  "$RIG_SCRATCH/ctr-remote" -a "$RIG_CONTAINERD" -n "$RIG_NS" image convert --estargz --oci \
    "$(image python:org)" "$(image python:ours)" >"$RIG_SCRATCH/convert.out" 2>&1 &
  pid=$!
  rig_wait 60 "the conversion to begin" lease_exists
  kill -INT "$pid"
  wait "$pid" && fail "a cancelled conversion succeeded"
  contains "error" "$(<"$RIG_SCRATCH/convert.out")" "cancelled"
  nothing_left
  equal "image" "$(rig_ctr image ls -q "name==$(image python:ours)")" ""
  "$RIG_SCRATCH/ctr-remote" -a "$RIG_CONTAINERD" -n "$RIG_NS" image convert --estargz --oci \
    "$(image python:org)" "$(image python:ours)" >"$RIG_SCRATCH/convert.out" 2>&1 &
  pid=$!
  rig_wait 60 "the conversion to begin" lease_exists
  rig_stop containerd
  wait "$pid" && fail "a conversion without containerd succeeded"
  contains "error" "$(<"$RIG_SCRATCH/convert.out")" "containerd is gone"
  rig_containerd_start plain
  equal "image" "$(rig_ctr image ls -q "name==$(image python:ours)")" ""
}
lease_exists() { [[ -n $(rig_ctr leases ls -q) ]]; }

# ---------------------------------------------------------------------------------------------------------

# run_case NAME: runs one case, prints a line with its result and counts it. Not to be called in a condition, where
# `set -e` does not act; in the background, so that a failure ends the case and not the run.
run_case() {
  local name=$1 out begin rc=0
  begin=$(now)
  (
    # Cases of Podman's make a host of their own.
    if ! declare -f "case_$name" | grep -q '^ *with_store'; then
      fresh
    fi
    "case_$name"
  ) >"$RIG_SCRATCH/case.out" 2>&1 &
  wait $! || rc=$?
  if ((rc == 0)); then
    printf 'PASS %s (%s s)\n' "$name" "$(seconds $(($(now) - begin)))"
    sed -n 's/^note: /     /p' "$RIG_SCRATCH/case.out"
    PASSED=$((PASSED + 1))
    return 0
  fi
  FAILED=$((FAILED + 1))
  printf 'FAIL %s (%s s)\n' "$name" "$(seconds $(($(now) - begin)))"
  tail -n 25 "$RIG_SCRATCH/case.out" | sed 's/^/     | /'
  out=$RIG_SCRATCH/failed/$name
  mkdir -p "$out"
  cp "$RIG_LOG"/*.log "$RIG_SCRATCH/case.out" "$out" 2>/dev/null || true
  echo "     | end of the snapshotter's or the store's log:"
  tail -n 10 "$RIG_LOG"/{stargz,store}.log 2>/dev/null | cut -c -400 | sed 's/^/     | /' || true
}
PASSED=0 FAILED=0

main() {
  local all=() cases=() arguments=("$@") name
  while (($#)); do
    case $1 in
      --bin)
        BIN=$(realpath "${2:?--bin needs a file}")
        shift
        ;;
      --backend)
        export RIG_BACKEND=${2:?--backend needs a name}
        shift
        ;;
      -*) die "usage: e2e.sh [--bin FILE] [--backend NAME] [CASE...]" ;;
      *) cases+=("${1#case_}") ;;
    esac
    shift
  done
  mapfile -t all < <(sed -n 's/^case_\([a-z0-9_]*\)() {$/\1/p' "${BASH_SOURCE[0]}" "$RIG_REPO/rig/podman_cases.sh")
  for name in "${cases[@]}"; do
    [[ " ${all[*]} " == *" $name "* ]] || die "no case '$name'; there are: ${all[*]}"
  done
  rig_require_root
  [[ -x $BIN ]] || die "$BIN is not there: cargo build --bin stargz"
  rig_host_packages
  rig_packages podman buildah htpasswd=apache2-utils
  /usr/bin/python3 -c 'import grpc' 2>/dev/null || rig_apt python3-grpcio
  "$RIG_REPO/rig/images.sh" "$IMAGES" debian python nginx
  rig_isolate "${arguments[@]}"

  for name in "${cases[@]:-${all[@]}}"; do
    run_case "$name"
  done
  printf '%d passed, %d failed\n' "$PASSED" "$FAILED"
  ((FAILED == 0))
}

main "$@"
