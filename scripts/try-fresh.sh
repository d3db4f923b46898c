#!/bin/sh
# Tries this checkout's last commit on a bare Debian: a folder made by debootstrap that holds
# nothing but the base system, Node.js, npm and git, entered with chroot in namespaces of its own.
#
#   try-fresh.sh [RELEASE [COMMAND...]]
#
# RELEASE is bookworm (Debian 12, the default) or trixie (Debian 13). Each COMMAND runs in the clone
# by sh; the default ones are those of the README. Needs root and debootstrap; Node.js and npm are
# this machine's. The bare system is kept in $DROVER_CACHE/fresh (default .cache/fresh) and copied
# for every run; the copy is removed at the end, or kept with KEEP=1.
set -eu

checkout=$(cd "$(dirname "$0")/.." && pwd)
cache="${DROVER_CACHE:-$checkout/.cache}/fresh"
release=${1:-bookworm}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- 'npm run demo' 'npm test'
base="$cache/$release"
root="$cache/run-$release-$$"

say() { printf 'try-fresh: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

[ "$(id -u)" -eq 0 ] || fail 'this needs root, for debootstrap and chroot'
command -v debootstrap >/dev/null || fail 'debootstrap is missing: apt-get install debootstrap'
node=$(readlink -f "$(command -v node)")
npm_folder=$(dirname "$(dirname "$(readlink -f "$(command -v npm)")")")

# The mirror this machine's own apt uses serves the other releases too.
mirror=$(apt-get indextargets --format '$(COMPONENT)|$(REPO_URI)' 'Created-By: Packages' |
  awk -F '|' '$1 == "main" { print $2; exit }')
[ -n "$mirror" ] || fail 'apt has no mirror configured'

if [ ! -d "$base" ]; then
  say "making a bare $release in $base"
  mkdir -p "$cache"
  rm -rf "$base.new"
  debootstrap --variant=minbase --include=git "$release" "$base.new" "$mirror" >"$base.log" 2>&1 ||
    fail "debootstrap failed, see $base.log"
  rm -rf "$base.new"/var/cache/apt/archives/*.deb "$base.new"/var/lib/apt/lists/*
  mv "$base.new" "$base"
fi

say "copying it to $root"
trap '[ -n "${KEEP:-}" ] || rm -rf --one-file-system "$root"' EXIT
trap 'exit 1' HUP INT TERM
cp -a "$base" "$root"
install -D "$node" "$root/usr/local/bin/node"
mkdir -p "$root/usr/local/lib/node_modules"
cp -a "$npm_folder" "$root/usr/local/lib/node_modules/npm"
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$root/usr/local/bin/npm"
ln -s ../lib/node_modules/npm/bin/npx-cli.js "$root/usr/local/bin/npx"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
# A machine behind a proxy has certificates of its own; the tools find them where they are told to.
if [ -n "${NODE_EXTRA_CA_CERTS:-}" ]; then
  install -D "$NODE_EXTRA_CA_CERTS" "$root/$NODE_EXTRA_CA_CERTS"
fi
git clone --quiet --no-hardlinks "$checkout" "$root/root/drover"

# Runs a command in the clone. Its namespaces go when it ends, with all that still runs in them. Of
# the environment only what this machine needs to reach the network is handed on.
inside() {
  command=$1
  set -- HOME=/root PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin LANG=C.UTF-8
  for name in NODE_EXTRA_CA_CERTS http_proxy https_proxy no_proxy npm_config_registry; do
    value=$(printenv "$name") && set -- "$@" "$name=$value"
  done
  unshare --mount --pid --fork --kill-child sh -eu -c '
    root=$1 command=$2
    shift 2
    mount --make-rprivate /
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/tmp"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys" 2>/dev/null || true
    exec chroot "$root" /usr/bin/env -i "$@" /bin/sh -c "cd /root/drover && $command"
  ' sh "$root" "$command" "$@"
}

missing=$(inside 'for tool in qemu-system-x86_64 gcc python3 openssl xz cpio; do
  command -v $tool >/dev/null || printf "%s " $tool; done')
say "not there: $missing"
failures=0
for task in "$@"; do
  started=$(date +%s)
  say "running: $task"
  if inside "$task"; then
    say "passed in $(($(date +%s) - started)) s: $task"
  else
    failures=$((failures + 1))
    say "FAILED after $(($(date +%s) - started)) s: $task"
  fi
done
[ "$failures" -eq 0 ] || fail "$failures of the commands failed"
say "all passed on a bare $release at $(git -C "$checkout" rev-parse --short HEAD)"
