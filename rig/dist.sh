#!/bin/bash
#
# dist.sh FILE: packs the executable FILE twice and looks at what came out: names, contents, that both times gave the
# same bytes, that the package installs into an empty root, that systemd takes its units.

cd "$(dirname "$(readlink -f "$0")")/.." || exit 1
# shellcheck source=rig/lib.sh
. rig/lib.sh

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
export SOURCE_DATE_EPOCH=1700000000

has() { grep -qxF -- "$2" "$1" || die "$1 has no line: $2"; }

# install_deb DEB ROOT: as dpkg does it, with its own database, but without the scripts, which want a whole system.
install_deb() {
  mkdir -p "$2/var/lib/dpkg/"{info,updates}
  touch "$2/var/lib/dpkg/status"
  dpkg --root="$2" --force-depends --force-not-root --force-script-chrootless --unpack "$1" >"$WORK/dpkg.log" 2>&1 ||
    die "dpkg: $(tail -n 5 "$WORK/dpkg.log")"
}

main() {
  local bin=$1 root=$WORK/root name unit script
  strip -o "$WORK/stargz" "$bin"
  for name in one two; do
    cargo xtask dist --quick --bin "$WORK/stargz" --out "$WORK/$name" >"$WORK/made.$name" 2>"$WORK/said" ||
      die "$(cat "$WORK/said")"
    (cd "$WORK/$name" && sha256sum -- *) >"$WORK/sums.$name"
  done
  cmp "$WORK/sums.one" "$WORK/sums.two" || die "the same files gave different packages"
  (cd "$WORK/one" && sha256sum --quiet -c -- *.sha256sum) || die "a checksum is wrong"
  [[ -z $(find "$WORK/one" -name '.work*') ]] || die "something was left behind"

  say "the tarball, unpacked as releases of stargz-snapshotter are"
  mkdir "$WORK/bin"
  tar -C "$WORK/bin" -xzf "$WORK"/one/stargz-snapshotter-v*-linux-*.tar.gz
  [[ $("$WORK/bin/containerd-stargz-grpc" --version) == containerd-stargz-grpc* ]] || die "the link is no program"
  for name in stargz-store stargz-store-helper ctr-remote; do
    [[ $(readlink -f "$WORK/bin/$name") == "$WORK/bin/stargz" ]] || die "no $name"
  done
  tar -tzf "$WORK"/one/stargz-snapshotter-v*-files.tar.gz >"$WORK/list"
  for name in etc/systemd/system/stargz-snapshotter.service usr/local/share/doc/stargz/LICENSE; do
    has "$WORK/list" "$name"
  done

  say "the package for Debian"
  install_deb "$WORK"/one/*.deb "$root"
  [[ $("$root/usr/bin/containerd-stargz-grpc" --version) == containerd-stargz-grpc* ]] || die "nothing was installed"
  [[ -f $root/usr/share/man/man8/containerd-stargz-grpc.8.gz ]] || die "no manual page"
  (cd "$root" && md5sum --quiet -c var/lib/dpkg/info/stargz.md5sums) || die "md5sums are wrong"
  # Unpacked, a configuration file waits beside its place until the package is configured.
  [[ -f $root/etc/containerd-stargz-grpc/config.toml.dpkg-new ]] || die "the configuration is no conffile"
  "$root/usr/bin/stargz" config check "$root/etc/containerd-stargz-grpc/config.toml.dpkg-new" >/dev/null ||
    die "the configuration that is installed is wrong"
  for script in postinst prerm postrm; do
    sh -n "$root/var/lib/dpkg/info/stargz.$script" || die "$script is no shell script"
  done
  [[ -z $(find "$root/usr" "$root/etc" -perm /022 ! -type l) ]] || die "something can be written by others"
  if command -v systemd-analyze >/dev/null; then
    for unit in "$root"/usr/lib/systemd/system/*.service; do
      # Only what is said of this unit counts; the units that it names are not in this root, or the machine's.
      sed "s|=/usr/bin/|=$root/usr/bin/|" "$unit" >"$WORK/${unit##*/}"
      systemd-analyze verify --man=no "$WORK/${unit##*/}" 2>&1 | grep -F "${unit##*/}" >"$WORK/said" || true
      [[ ! -s $WORK/said ]] || die "systemd: $(cat "$WORK/said")"
    done
  else
    echo "SKIPPED: units are not looked at: no systemd-analyze here"
  fi
  if command -v rpmbuild >/dev/null; then
    say "the package for RPM"
    rpm -qpl "$WORK"/one/*.rpm >"$WORK/list"
    has "$WORK/list" /usr/bin/containerd-stargz-grpc
    rpm -qpc "$WORK"/one/*.rpm >"$WORK/list"
    has "$WORK/list" /etc/containerd-stargz-grpc/config.toml
  fi
}

[[ -x ${1:-} ]] || die "usage: rig/dist.sh FILE"
main "$1"
