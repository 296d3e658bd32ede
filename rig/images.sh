#!/bin/bash
#
# images.sh DIR IMAGE...: makes images from Debian and PyPI packages, as a registry's storage in DIR/registry.
#
# Each image is there twice: NAME:org, plain gzip layers, and NAME:esgz, the same converted to eStargz by
# stargz-snapshotter's own ctr-remote. What DIR holds already is not made again; to have it
# made again, remove DIR. The images:
#
#   debian   minimal root filesystem
#   python   debian, python3, a virtual environment with numpy
#   nginx    debian, nginx; its second layer also removes files and replaces a directory
#   pydata   debian, python3, numpy + pandas + scipy + matplotlib, a 128 MiB random file
#   layered  debian and 19 layers of 500 small files each
#
# Packages come from where this machine's apt and pip get them; nothing else is downloaded.

# shellcheck source=rig/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# recipe IMAGE: prints the layers of an image, the lowest first.
recipe() {
  case $1 in
    debian) echo base ;;
    python) echo base,python,numpy ;;
    nginx) echo base,nginx ;;
    pydata) echo base,python,pydata,model ;;
    layered) echo "base$(printf ',small%02d' {1..19})" ;;
    *) die "images.sh: no image is called '$1'" ;;
  esac
}

apt_install() { echo "apt-get update -qq && apt-get install -y -q --no-install-recommends $*"; }
pip_install() { echo "python3 -m venv /opt/venv && /opt/venv/bin/pip install -q --no-cache-dir $*"; }

# contents LAYER: prints the shell commands that make a layer, on top of the layers below it.
contents() {
  case $1 in
    python) apt_install python3 python3-venv ;;
    numpy) pip_install numpy ;;
    pydata) pip_install numpy pandas scipy matplotlib ;;
    model) echo 'mkdir /app && head -c 134217728 /dev/urandom >/app/model.bin' ;;
    nginx)
      apt_install nginx-light
      echo 'rm -rf /usr/share/doc/* /usr/share/man; rm -rf /var/lib/dpkg/info; mkdir /var/lib/dpkg/info'
      echo 'echo "a page from an image" >/var/www/html/index.html'
      ;;
    small*)
      echo "mkdir -p /small/$1; cd /small/$1"
      echo "for i in \$(seq 500); do echo $1 \$i >file\$i; done"
      ;;
  esac
}

# make_base: the root filesystem of this machine's own release.
make_base() {
  local mirror release
  # shellcheck disable=SC2016 # apt's placeholders, not the shell's
  read -r mirror release < <(apt-get indextargets --format '$(SITE) $(CODENAME) $(COMPONENT) $(ORIGIN)' \
    'Created-By: Packages' | awk '$3 == "main" && ($4 == "Debian" || $4 == "Ubuntu") { print $1, $2; exit }') ||
    die "apt's configuration names no main archive of Debian or Ubuntu"
  mmdebstrap --variant=apt --include=ca-certificates "$release" "$DIR/layers/base" "$mirror"
  # Mount points, empty in the image: a runtime that has to make them itself changes the time of /etc.
  rm -f "$DIR/layers/base/etc/"{hosts,resolv.conf}
  touch "$DIR/layers/base/etc/"{hosts,resolv.conf}
}

# make_upper LAYER BELOW: runs the layer's commands in a chroot over the layers BELOW (colon list, topmost first).
make_upper() {
  local layer=$1 below=$2 tree
  tree=$(mktemp -d)
  mkdir "$DIR/layers/$layer" "$DIR/layers/$layer.work"
  mount -t overlay -o "lowerdir=$below,upperdir=$DIR/layers/$layer,workdir=$DIR/layers/$layer.work,\
metacopy=off,redirect_dir=off,xino=off" overlay "$tree"
  mount -t proc proc "$tree/proc"
  mount --rbind /dev "$tree/dev"
  mount --bind "$(realpath /etc/resolv.conf)" "$tree/etc/resolv.conf"
  if [[ -e /etc/ssl/certs/ca-certificates.crt ]]; then
    mount --bind /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/ca-certificates.crt"
  fi
  # What must not stay in the layer lives on tmpfs: package lists, downloads, this machine's configuration.
  mount -t tmpfs tmpfs "$tree/tmp"
  mount -t tmpfs tmpfs "$tree/var/lib/apt/lists"
  mount -t tmpfs tmpfs "$tree/var/cache/apt"
  apt-config dump Acquire | grep -v '::$' >"$tree/tmp/apt.conf"
  cat /etc/pip.conf /dev/null >"$tree/tmp/pip.conf" 2>/dev/null || true
  printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
  chmod 755 "$tree/usr/sbin/policy-rc.d"
  local variables=(PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
    APT_CONFIG=/tmp/apt.conf PIP_CONFIG_FILE=/tmp/pip.conf PIP_CERT=/etc/ssl/certs/ca-certificates.crt
    PYTHONDONTWRITEBYTECODE=1)
  local name
  for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT \
    http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    [[ -z ${!name:-} ]] || variables+=("$name=${!name}")
  done
  env -i "${variables[@]}" chroot "$tree" bash -ec "$(contents "$layer")"
  rm -f "$tree/usr/sbin/policy-rc.d"
  umount -R "$tree"
  rmdir "$tree"
  rm -rf "$DIR/layers/$layer.work"
}

# make_layer LAYER BELOW: makes a layer unless it is there.
make_layer() {
  local layer=$1 below=$2 log=$DIR/layers/$1.log begin
  [[ ! -e $DIR/layers/$layer.done ]] || return 0
  begin=$(now)
  rm -rf "${DIR:?}/layers/$layer" "$DIR/layers/$layer.work"
  # A subshell in the background, since `set -e` does not act inside a condition.
  (if [[ $layer == base ]]; then make_base; else make_upper "$layer" "$below"; fi) >"$log" 2>&1 &
  if ! wait $!; then
    tail -n 20 "$log" >&2
    die "the layer '$layer' could not be made; its log: $log"
  fi
  : >"$DIR/layers/$layer.done"
  say "made the layer '$layer' in $(seconds $(($(now) - begin))) s"
}

make_layers() {
  local image layer below
  for image in "$@"; do
    below=
    for layer in $(recipe "$image" | tr , ' '); do
      make_layer "$layer" "$below"
      below=$DIR/layers/$layer${below:+:$below}
    done
  done
}

# convert IMAGE: makes IMAGE:esgz of IMAGE:org, and pushes both. Level 6 is within 1% of the size of the default, 9,
# in two thirds of the time.
convert() {
  local begin
  begin=$(now)
  rig_ctr image convert --estargz --estargz-compression-level 6 --oci "rig/$1:org" "rig/$1:esgz" >/dev/null
  rig_ctr image push --plain-http "$RIG_REGISTRY/$1:org" "rig/$1:org" >/dev/null
  rig_ctr image push --plain-http "$RIG_REGISTRY/$1:esgz" "rig/$1:esgz" >/dev/null
  : >"$DIR/$1.pushed"
  say "converted and pushed '$1' in $(seconds $(($(now) - begin))) s"
}

# convert_all IMAGE...: side by side, since one conversion keeps little more than one processor busy.
convert_all() {
  local image job jobs=() failed=0
  for image; do
    convert "$image" &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do
    wait "$job" || failed=1
  done
  ((!failed)) || die "not every image could be converted"
}

main() {
  (($# >= 2)) || die "usage: images.sh DIR IMAGE..."
  mkdir -p "$1/layers"
  DIR=$(realpath "$1")
  shift
  local image wanted=() packed=()
  for image; do
    recipe "$image" >/dev/null
    [[ -e $DIR/$image.pushed ]] || wanted+=("$image")
  done
  ((${#wanted[@]})) || return 0 # also after waiting for somebody who made them
  rig_require_root
  if [[ -z $RIG_SCRATCH ]]; then
    rig_host_packages
    exec {LOCK}>"$DIR/lock" # held until the end: whoever else wants images here waits, and then finds them
    flock "$LOCK"
  fi
  rig_isolate "$DIR" "$@"

  say "making images: ${wanted[*]} (kept in $DIR)"
  make_layers "${wanted[@]}"
  for image in "${wanted[@]}"; do
    packed+=("rig/$image:org=$(recipe "$image")")
  done
  /usr/bin/python3 "$RIG_REPO/rig/oci_layout.py" "$DIR/oci" "$DIR/layers" "${packed[@]}"
  rig_registry_start "$DIR/registry"
  rig_containerd_start plain
  tar -C "$DIR/oci" -c . | rig_ctr image import --no-unpack - >/dev/null
  convert_all "${wanted[@]}"
}

main "$@"
