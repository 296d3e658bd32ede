# shellcheck shell=bash
#
# lib.sh: a private container host on one machine, for tests and measurements. To be sourced.
#
# `rig_isolate` runs the calling script again in its own mount and PID namespace, with a scratch directory on
# disk and an empty tmpfs on /run/containerd. Whatever the script starts or mounts lives in there: when the script
# ends, however it ends, the kernel kills the processes and drops the mounts, and nothing of the machine's own
# containerd is seen or touched. The network is the machine's; every service listens on a free loopback port.
#
# Functions print to stderr only, unless they are said to print a value. Services log to $RIG_LOG.

set -euo pipefail

RIG_REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
RIG_NS=rig                       # containerd namespace
RIG_RUN=/run/containerd/rig      # sockets: a short path, since a unix socket's is limited to 107 bytes
RIG_CONTAINERD=$RIG_RUN/containerd.sock
RIG_STARGZ=$RIG_RUN/stargz.sock
RIG_CTR=/usr/bin/ctr-remote      # stargz-snapshotter's; one in /usr/local/bin may be a link to our own executable
RIG_SCRATCH=${RIG_SCRATCH:-}
RIG_LOG=$RIG_SCRATCH/log
RIG_CGROUP=stargz-$(basename "$RIG_SCRATCH") # parent of the containers' cgroups
export -n RIG_SCRATCH            # a script called from inside isolates itself again
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf '==> %s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# now: prints the time in milliseconds.
now() { printf '%s\n' $((${EPOCHREALTIME/[.,]/} / 1000)); }

# seconds MS: prints milliseconds as seconds.
seconds() { printf '%d.%03d\n' $(($1 / 1000)) $(($1 % 1000)); }

# megabytes BYTES: prints bytes as MB (10^6).
megabytes() { printf '%d.%02d\n' $(($1 / 1000000)) $(($1 % 1000000 / 10000)); }

# median NUMBER...: prints the lower median of whole numbers.
median() { printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p"; }

# ---------------------------------------------------------------------------------------------------------
# What the machine must have

rig_require_root() {
  ((EUID == 0)) || die "this needs root (it mounts, and runs containers): sudo $0"
  command -v apt-get >/dev/null || die "this needs Debian 12 or newer, or Ubuntu of that age: apt-get not found"
}

# rig_packages COMMAND[=PACKAGE]...: installs the packages of the commands that are missing. Services that the
# packages bring are not started, and not enabled for the next boot if the machine did not have them before.
rig_packages() {
  local want missing=() unit
  for want; do
    command -v "${want%%=*}" >/dev/null || missing+=("${want#*=}")
  done
  ((${#missing[@]})) || return 0
  rig_apt "${missing[@]}"
  if command -v systemctl >/dev/null; then
    for unit in docker-registry containerd nginx; do
      [[ " ${missing[*]} " != *" $unit "* ]] || systemctl disable -q "$unit" 2>/dev/null || true
    done
  fi
}

# rig_apt PACKAGE...: installs packages without starting services.
rig_apt() {
  local policy=/usr/sbin/policy-rc.d rc=0
  say "installing from the distribution: $*"
  rig_apt_update
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  else
    policy=
  fi
  local log
  log=$(mktemp)
  if ! rig_apt_get install -q --no-install-recommends "$@" >"$log" 2>&1; then
    # The package lists may be older than what the archive holds now.
    rig_apt_get update >>"$log" 2>&1
    rig_apt_get install -q --no-install-recommends "$@" >>"$log" 2>&1 || rc=$?
  fi
  [[ -z $policy ]] || rm -f "$policy"
  if ((rc)); then
    tail -n 15 "$log" >&2
    rm -f "$log"
    die "apt-get could not install: $*"
  fi
  rm -f "$log"
  hash -r
}

rig_apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=600 "$@" </dev/null; }

# rig_apt_update: refreshes the package lists when the last refresh is over a day old, or never was.
rig_apt_update() {
  [[ -z $(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -mmin -1440 -print -quit 2>/dev/null) ]] || return 0
  rig_apt_get update -qq >&2 || die "apt-get update failed"
}

# rig_cargo: puts a cargo that is new enough for the workspace on PATH, from the distribution if need be.
rig_cargo() {
  local want package
  want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$RIG_REPO/Cargo.toml")
  rig_packages cc=gcc
  [[ -d ${HOME:-/root}/.cargo/bin ]] && PATH="${HOME:-/root}/.cargo/bin:$PATH"
  rig_cargo_is_new_enough "$want" && return 0
  if command -v cargo >/dev/null; then
    say "$(cargo --version 2>/dev/null || echo 'the installed cargo') is older than $want"
  fi
  rig_apt_update
  for package in $(apt-cache pkgnames cargo | grep -E '^cargo(-web|-[0-9]+\.[0-9]+)?$' | sort -rV); do
    rig_package_is_new_enough "$package" "$want" || continue
    rig_apt "$package" "${package/cargo/rustc}"
    if [[ $package == cargo-[0-9]* ]]; then # Ubuntu's versioned packages do not claim the plain names
      PATH="/usr/lib/rust-${package#cargo-}/bin:$PATH"
    fi
    rig_cargo_is_new_enough "$want" && return 0
  done
  die "no cargo >= $want: neither installed nor packaged for this release; install Rust with rustup (https://rustup.rs)"
}

rig_cargo_is_new_enough() {
  local have
  have=$(cargo --version 2>/dev/null | cut -d' ' -f2) || return 1
  [[ -n $have && $(printf '%s\n' "$1" "$have" | sort -V | head -n 1) == "$1" ]]
}

rig_package_is_new_enough() {
  local version
  version=$(apt-cache policy "$1" | sed -n 's/^ *Candidate: *//p')
  [[ $version != '(none)' ]] && dpkg --compare-versions "$version" ge "$2"
}

# rig_host_packages: what a private container host needs.
rig_host_packages() {
  rig_packages containerd runc docker-registry "$RIG_CTR=stargz-snapshotter" mmdebstrap pigz curl skopeo \
    unshare=util-linux mount ss=iproute2 ps=procps /usr/bin/python3=python3
}

# ---------------------------------------------------------------------------------------------------------
# Isolation

# rig_isolate ARGS...: goes on in private namespaces with a scratch directory ($RIG_SCRATCH). Outside it runs
# the calling script again with ARGS, waits, removes the scratch directory and exits with the script's status.
rig_isolate() {
  if [[ -n $RIG_SCRATCH ]]; then
    mkdir -p "$RIG_LOG" /run/containerd
    mount -t tmpfs -o mode=711 rig /run/containerd
    mkdir -p "$RIG_RUN"
    trap 'exit 143' TERM
    return 0
  fi
  local base=${RIG_BASE:-$RIG_REPO/.build/rig} scratch lock child rc=0 had_run
  [[ -d /run/containerd ]] && had_run=1 || had_run=
  mkdir -p "$base"
  case $(stat -f -c %T "$base") in
    overlayfs | tmpfs | nfs | fuseblk | v9fs)
      die "$base is on $(stat -f -c %T "$base"): set RIG_BASE to a directory on a disk (ext4, xfs, btrfs)"
      ;;
  esac
  rig_sweep "$base"
  scratch=$(mktemp -d "$base/$(basename "$0" .sh).XXXXXX")
  exec {lock}>"$scratch/lock"
  flock "$lock"
  RIG_SCRATCH=$scratch setsid setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc \
    --propagation private bash "$0" "$@" </dev/null {lock}>&- &
  child=$!
  # The script is in a session of its own, so that a Ctrl-C reaches it as one orderly TERM.
  trap 'kill -TERM -- -"$child" 2>/dev/null || true' INT TERM HUP
  while :; do
    wait "$child" && rc=0 || rc=$?
    kill -0 "$child" 2>/dev/null || break
  done
  trap - INT TERM HUP
  rig_remove_cgroups "$scratch"
  if [[ -n ${RIG_KEEP:-} ]]; then
    say "kept: $scratch"
  else
    rm -rf --one-file-system "$scratch"
  fi
  [[ -n $had_run ]] || rmdir /run/containerd 2>/dev/null || true
  exit "$rc"
}

# rig_sweep BASE: removes scratch directories that a killed run left behind (nobody holds their lock).
rig_sweep() {
  local old
  for old in "$1"/*/; do
    [[ -e $old/lock ]] || continue
    if flock -n "$old/lock" true; then
      rig_remove_cgroups "$old"
      rm -rf --one-file-system "$old"
    fi
  done
}

# rig_remove_cgroups SCRATCH: runc leaves the parent of the containers' cgroups behind.
rig_remove_cgroups() {
  local dir name
  name=stargz-$(basename "$1")
  for dir in "/sys/fs/cgroup/$name" /sys/fs/cgroup/*/"$name"; do
    [[ -d $dir ]] || continue
    find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
}

# ---------------------------------------------------------------------------------------------------------
# Services. Each has a name; its process id is in $RIG_SCRATCH/NAME.pid, its log in $RIG_LOG/NAME.log.

# rig_spawn NAME COMMAND...: starts a service in the background, its log appended to.
rig_spawn() {
  local name=$1
  shift
  setsid "$@" </dev/null >>"$RIG_LOG/$name.log" 2>&1 &
  printf '%s\n' $! >"$RIG_SCRATCH/$name.pid"
}

# rig_pid NAME: prints a service's process id; fails when it is not running.
rig_pid() {
  local pid
  pid=$(cat "$RIG_SCRATCH/$1.pid" 2>/dev/null) && rig_alive "$pid" && printf '%s\n' "$pid"
}

# rig_alive PID: a zombie counts as dead.
rig_alive() { [[ $(ps -o state= -p "$1" 2>/dev/null) == [!Z]* ]]; }

# rig_wait SECONDS WHAT COMMAND...: polls until COMMAND succeeds.
rig_wait() {
  local limit=$1 what=$2 deadline
  shift 2
  deadline=$(($(now) + limit * 1000))
  until "$@" >/dev/null 2>&1; do
    if (($(now) > deadline)); then
      printf 'error: waited %s s for %s\n' "$limit" "$what" >&2
      return 1
    fi
    sleep 0.05
  done
}

# rig_ready NAME WHAT COMMAND...: waits until a service answers; fails at once, with its log, if it dies.
rig_ready() {
  local name=$1 what=$2
  shift 2
  if ! rig_wait 60 "$what" rig_answers_or_died "$name" "$@" || ! rig_pid "$name" >/dev/null; then
    printf 'error: %s did not come up; end of its log:\n' "$what" >&2
    tail -n 20 "$RIG_LOG/$name.log" >&2
    return 1
  fi
}

rig_answers_or_died() {
  local name=$1
  shift
  "$@" || ! rig_pid "$name"
}

# rig_stop NAME [SIGNAL]: ends a service and waits until it is gone.
rig_stop() {
  local pid
  pid=$(rig_pid "$1") || return 0
  kill -s "${2:-TERM}" "$pid"
  if ! rig_wait 30 "$1 to stop" rig_gone "$pid"; then
    kill -KILL "$pid"
    return 1
  fi
}
rig_gone() { ! rig_alive "$1"; }

# rig_free_port: prints a loopback TCP port that nobody listens on.
rig_free_port() {
  local port
  while :; do
    port=$((RANDOM % 20000 + 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  printf '%s\n' "$port"
}

# rig_storage IMAGES: a copy of the registry's storage that images.sh made, in $RIG_SCRATCH/storage. Hard links are
# enough: the registry and registry_tool.py replace files, they do not write into them.
rig_storage() {
  rm -rf "$RIG_SCRATCH/storage"
  cp -al "$1/registry" "$RIG_SCRATCH/storage" 2>/dev/null || cp -a "$1/registry" "$RIG_SCRATCH/storage"
}

# rig_registry_start STORAGE [HTPASSWD]: a registry over STORAGE, on $RIG_REGISTRY (host:port, kept over restarts).
# Every request is one line in its log: see rig_served.
rig_registry_start() {
  local config=$RIG_SCRATCH/registry.yml
  RIG_REGISTRY=${RIG_REGISTRY:-127.0.0.1:$(rig_free_port)}
  cat >"$config" <<-YAML
	version: 0.1
	log: {level: error}
	storage:
	  filesystem: {rootdirectory: $1}
	  delete: {enabled: true}
	http: {addr: $RIG_REGISTRY, secret: rig}
	YAML
  [[ -z ${2:-} ]] || printf 'auth:\n  htpasswd: {realm: rig, path: %s}\n' "$2" >>"$config"
  rig_spawn registry docker-registry serve "$config"
  rig_ready registry "the registry on $RIG_REGISTRY" rig_connects "$RIG_REGISTRY"
}
rig_connects() { (exec 3<>"/dev/tcp/${1%:*}/${1##*:}") 2>/dev/null; }

# rig_served MARK: prints "BYTES REQUESTS" of blob data that the registry has sent since the log had MARK lines.
# rig_mark: prints the present number of lines.
rig_served() {
  tail -n "+$(($1 + 1))" "$RIG_LOG/registry.log" |
    awk '$6 == "\"GET" && $7 ~ "/blobs/" && $9 ~ /^20[06]$/ { b += $10; n++ } END { printf "%.0f %d\n", b, n }'
}
rig_mark() { wc -l <"$RIG_LOG/registry.log"; }

# rig_containerd_start cri|plain: a private containerd that knows our snapshotter's socket; with Kubernetes' interface or
# without.
rig_containerd_start() {
  local config=$RIG_SCRATCH/containerd.toml off='"io.containerd.grpc.v1.cri"'
  [[ $1 == plain ]] || off=
  cat >"$config" <<-TOML
	version = 2
	root = "$RIG_SCRATCH/containerd"
	state = "$RIG_RUN/containerd"
	disabled_plugins = [$off]
	[grpc]
	  address = "$RIG_CONTAINERD"
	[ttrpc]
	  address = "$RIG_CONTAINERD.ttrpc"
	[proxy_plugins.stargz]
	  type = "snapshot"
	  address = "$RIG_STARGZ"
	[plugins."io.containerd.internal.v1.opt"]
	  path = "$RIG_SCRATCH/opt"
	[plugins."io.containerd.grpc.v1.cri"]
	  disable_tcp_service = true
	  [plugins."io.containerd.grpc.v1.cri".containerd]
	    snapshotter = "stargz"
	    disable_snapshot_annotations = false
	TOML
  rig_spawn containerd containerd --config "$config" --log-level info
  rig_ready containerd containerd rig_ctr version
}

# rig_ctr ARGS...: ctr (the one with rpull and convert) against the private containerd.
rig_ctr() { timeout 600 "$RIG_CTR" --address "$RIG_CONTAINERD" --namespace "$RIG_NS" "$@"; }

# rig_snapshotter_start BINARY [CONFIG]: our daemon; CONFIG is the text of its configuration file. RIG_BACKEND names the
# backend to force.
rig_snapshotter_start() {
  local config=$RIG_SCRATCH/stargz.toml
  [[ $# -lt 2 ]] || printf '%s\n' "$2" >"$config"
  [[ -e $config ]] || : >"$config"
  if [[ -n ${RIG_BACKEND:-} ]] && ! grep -q '^\[mount\]' "$config"; then
    printf '[mount]\nbackend = "%s"\n' "$RIG_BACKEND" >>"$config"
  fi
  ln -sf "$(readlink -f "$1")" "$RIG_SCRATCH/containerd-stargz-grpc"
  local before
  before=$(rig_times_served)
  rig_spawn stargz "$RIG_SCRATCH/containerd-stargz-grpc" --address "$RIG_STARGZ" --config "$config" \
    --root "$RIG_SCRATCH/stargz" --log-level debug
  # Its socket says nothing: a keeper may have kept it.
  rig_ready stargz "the snapshotter" rig_serves_again "$before"
}
rig_times_served() { grep -c 'serving snapshots' "$RIG_LOG/stargz.log" 2>/dev/null || true; }
rig_serves_again() { (($(rig_times_served) > ${1:-0})); }

# rig_keepers_stop: ends the keepers of former daemons of ours, which would hold on for a minute to what nobody will take.
rig_keepers_stop() {
  local process
  for process in /proc/[0-9]*; do
    if tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -q " keeper --address $RIG_SCRATCH/"; then
      kill -KILL "${process#/proc/}" || true
    fi
  done
}

# rig_reconnect: waits until a running containerd talks to the snapshotter again after it was started anew (its client
# waits up to some seconds between two attempts).
rig_reconnect() {
  rig_wait 60 "containerd to find the snapshotter" rig_ctr snapshots --snapshotter stargz prepare rig-probe
  rig_ctr snapshots --snapshotter stargz rm rig-probe
}

rig_listens() { [[ -n $(ss -Hlx "src $1") ]]; }

# rig_run SNAPSHOTTER IMAGE NAME [CTR-OPTIONS... --] COMMAND...: runs a container on the host network, to its end
# unless RIG_DETACH is set.
rig_run() {
  local snapshotter=$1 image=$2 name=$3 options=(--rm)
  shift 3
  [[ -z ${RIG_DETACH:-} ]] || options=(--detach)
  if [[ $1 == --* ]]; then
    while [[ $1 != -- ]]; do
      options+=("$1")
      shift
    done
    shift
  fi
  rig_ctr run --net-host --cgroup "/$RIG_CGROUP/$name" --snapshotter "$snapshotter" "${options[@]}" "$image" "$name" "$@"
}

# rig_mounts_below DIR: prints the mount points at or below DIR, the deepest last.
rig_mounts_below() { awk -v d="$1" '$5 == d || index($5, d "/") == 1 { print $5 }' /proc/self/mountinfo; }

# rig_drop_caches: empties the page cache and the dentry and inode caches.
rig_drop_caches() {
  sync
  echo 3 >/proc/sys/vm/drop_caches
}
