#!/bin/sh
# Fetches what the Linux test guest is made of, into $DROVER_CACHE/guest (default: .cache/guest in
# the checkout): Debian's kernel for clouds and a static busybox. The packages are unpacked there,
# never installed. Everything printed goes to stderr; nothing happens when all is in place.
#
# Result: guest/packages/ (the unpacked packages) and guest/packages.txt (their file names), written
# last.
set -eu

checkout=$(cd "$(dirname "$0")/.." && pwd)
guest="${DROVER_CACHE:-$checkout/.cache}/guest"

say() { printf 'set-up: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

[ -s "$guest/packages.txt" ] && exit 0

for tool in apt-get apt-cache dpkg-deb; do
  command -v "$tool" >/dev/null 2>&1 || fail "the Linux test guest is unpacked from Debian" \
    "packages, and $tool is missing here. Copy $guest from a Debian machine where this ran."
done

# Prints the kernel package that the package for clouds depends on today.
kernel_package() {
  LC_ALL=C apt-cache depends linux-image-cloud-amd64 2>/dev/null |
    sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1
}

update_lists() {
  say 'fetching the package lists (apt-get update)'
  if [ "$(id -u)" -eq 0 ]; then
    apt-get -q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 update >&2
  elif sudo -n true 2>/dev/null; then
    sudo -n apt-get -q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 update >&2
  else
    fail 'the package lists are missing or out of date. Please run as root: apt-get update'
  fi
}

# Downloads the packages into the current folder. Root's own account is used: apt's sandbox user
# cannot write here.
download() {
  kernel=$(kernel_package)
  [ -n "$kernel" ] || return 1
  apt-get -q -o APT::Sandbox::User=root -o Acquire::Retries=3 download "$kernel" busybox-static >&2
}

mkdir -p "$guest"
work=$(mktemp -d "$guest/fetching.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work/debs" "$work/packages"
cd "$work/debs"
say 'fetching the Linux test guest (about 30 MB)'
download || { update_lists && download; } ||
  fail 'the packages linux-image-cloud-amd64 and busybox-static cannot be downloaded'
say 'unpacking it'
for package in *.deb; do dpkg-deb -x "$package" "$work/packages"; done
rm -rf "$guest/packages"
mv "$work/packages" "$guest/packages"
ls >"$work/packages.txt"
mv "$work/packages.txt" "$guest/packages.txt"
say "the Linux test guest is in $guest"
