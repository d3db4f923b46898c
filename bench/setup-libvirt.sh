#!/bin/sh
# Fetches libvirt for the bench into $DROVER_CACHE/libvirt (default: .cache/libvirt in the
# checkout): the distribution's own packages, of its backports suite where that is configured. They
# are unpacked there, never installed. Everything printed goes to stderr; nothing happens when all
# is in place.
#
# Result: libvirt/root/ (the unpacked packages) and libvirt/version.txt (libvirt's version), written
# last.
set -eu

checkout=$(cd "$(dirname "$0")/.." && pwd)
libvirt="${DROVER_CACHE:-$checkout/.cache}/libvirt"
packages='libvirt-daemon libvirt-daemon-common libvirt-daemon-driver-qemu libvirt-daemon-log
  libvirt-common libvirt0 libvirt-clients'

say() { printf 'set-up: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

[ -s "$libvirt/version.txt" ] && exit 0

for tool in apt-get apt-cache dpkg-deb; do
  command -v "$tool" >/dev/null 2>&1 ||
    fail "libvirt is unpacked from Debian packages, and $tool is missing here"
done

release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
newest=$(LC_ALL=C apt-cache madison libvirt-daemon 2>/dev/null |
  awk -F ' *[|] *' -v suite="$release-backports/" 'index($3, suite) { print $2; exit }')
targets=''
for package in $packages; do
  # The stable suite has fewer packages for the same programs.
  if [ -n "$newest" ]; then targets="$targets $package=$newest"
  elif apt-cache show "$package" >/dev/null 2>&1; then targets="$targets $package"
  fi
done
[ -n "$targets" ] || fail 'apt knows no libvirt. Please run as root: apt-get update'

mkdir -p "$libvirt"
work=$(mktemp -d "$libvirt/fetching.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$work/debs/partial" "$work/root"
say "fetching libvirt ${newest:-of the stable suite}"
# What the packages need and the machine lacks comes with them; nothing is installed.
# shellcheck disable=SC2086 # The targets are several words on purpose.
apt-get -q -y --download-only --no-install-recommends -o APT::Sandbox::User=root \
  -o Acquire::Retries=3 -o Debug::NoLocking=1 -o Dir::Cache::archives="$work/debs" \
  install $targets >&2 ||
  fail 'the packages cannot be downloaded. Please run as root: apt-get update'
for package in "$work"/debs/*.deb; do
  # Newer versions of what is installed are not needed for that.
  name=$(dpkg-deb -f "$package" Package)
  dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' && continue
  dpkg-deb -x "$package" "$work/root"
done
# The folders that are links on a system with a merged /usr must not be folders here.
for folder in bin sbin lib; do
  [ -d "$work/root/$folder" ] || continue
  mkdir -p "$work/root/usr/$folder"
  cp -a "$work/root/$folder/." "$work/root/usr/$folder/"
  rm -rf "$work/root/${folder:?}"
done
rm -rf "$libvirt/root"
mv "$work/root" "$libvirt/root"
for package in "$work"/debs/libvirt-daemon_*.deb; do
  dpkg-deb -f "$package" Version >"$work/version.txt"
done
mv "$work/version.txt" "$libvirt/version.txt"
say "libvirt $(cat "$libvirt/version.txt") is in $libvirt"
