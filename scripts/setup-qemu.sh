#!/bin/sh
# Makes sure that a new enough QEMU is on PATH: qemu-system-x86_64 from 9.1 on, and qemu-img beside
# it.
#
# Where it is missing or older, Debian's own packages are installed: on Debian 13 the plain ones, on
# Debian 12 those of the backports suite, from the mirror this machine already uses. Any other
# system is told exactly what is missing. Everything printed goes to stderr; nothing happens when
# all is in place.
set -eu

floor='9.1'
packages='qemu-system-x86 qemu-utils'

say() { printf 'set-up: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

# Prints the version of the qemu-system-x86_64 on PATH as major.minor, or nothing.
qemu_version() {
  qemu-system-x86_64 --version 2>/dev/null |
    sed -n 's/^QEMU emulator version \([0-9][0-9]*\.[0-9][0-9]*\).*/\1/p'
}

# Succeeds when version $1 is at least version $2, both as major.minor.
at_least() {
  [ -n "$1" ] || return 1
  [ "${1%%.*}" -gt "${2%%.*}" ] && return 0
  [ "${1%%.*}" -eq "${2%%.*}" ] && [ "${1#*.}" -ge "${2#*.}" ]
}

ready() { at_least "$(qemu_version)" "$floor" && command -v qemu-img >/dev/null 2>&1; }

can_be_root() { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }

# Runs a command as root. Sudo must never stop to ask for a password: nobody may be watching.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
    -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@" >&2
}

update_lists() {
  say 'fetching the package lists (apt-get update)'
  apt_get update
}

# Prints the URI of suite $1, component main, as the machine has it configured. apt knows only
# suites whose lists were fetched at least once.
mirror_of() {
  apt-get indextargets --format '$(RELEASE)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)' \
    'Created-By: Packages' 2>/dev/null |
    awk -F '|' -v suite="$1" '($1 == suite || $2 == suite) && $3 == "main" { print $4; exit }'
}

backports_are_configured() {
  grep -qs "^[^#]*$release-backports" /etc/apt/sources.list /etc/apt/sources.list.d/*.list \
    /etc/apt/sources.list.d/*.sources
}

backports_are_unfetched() {
  backports_are_configured && [ -z "$(mirror_of "$release-backports")" ]
}

# Prints the sources entry (deb822) that adds the backports of release $1 from the mirror $2.
backports_entry() {
  printf 'Types: deb\nURIs: %s\nSuites: %s-backports\nComponents: main\n' "$2" "$1"
  for keyring in debian-archive-keyring.pgp debian-archive-keyring.gpg; do
    if [ -f "/usr/share/keyrings/$keyring" ]; then
      printf 'Signed-By: /usr/share/keyrings/%s\n' "$keyring"
      break
    fi
  done
}

has_candidate() {
  LC_ALL=C apt-cache policy "$1" 2>/dev/null | grep -q '^  Candidate: [0-9]'
}

refuse_other_system() {
  found=$(qemu_version)
  say "Drover needs qemu-system-x86_64 $floor or newer and qemu-img on PATH."
  image_tool=$(command -v qemu-img || echo missing)
  say "Found: qemu-system-x86_64 ${found:-missing}, qemu-img $image_tool."
  fail 'They can be installed for you on Debian 12 and 13 only. Please install them and run again.'
}

refuse_without_root() {
  say "QEMU $floor or newer must be installed, and this user may not do it. Please run as root:"
  {
    [ -z "$entry" ] || printf "cat >%s <<'END'\n%s\nEND\n" "$entry_file" "$entry"
    printf 'apt-get update\napt-get install --no-install-recommends %s\n' "$targets"
  } >&2
  exit 1
}

ready && exit 0

os_id=$(. /etc/os-release 2>/dev/null && echo "${ID:-}")
release=$(. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME:-}")
entry=''
entry_file="/etc/apt/sources.list.d/$release-backports.sources"
case "$os_id/$release" in
  debian/bookworm)
    targets=''
    # apt takes only the packages named from backports, never what they depend on: name those too.
    for package in $packages qemu-system-common qemu-system-data seabios; do
      targets="$targets $package/$release-backports"
    done
    targets=${targets# }
    # Lists that were never fetched are fetched before anything is added on top of them.
    if [ -z "$(mirror_of "$release")" ] || backports_are_unfetched; then
      if can_be_root; then update_lists; fi
    fi
    if [ -z "$(mirror_of "$release-backports")" ] && ! backports_are_configured; then
      mirror=$(mirror_of "$release")
      [ -n "$mirror" ] ||
        fail "apt knows no mirror for $release: configure one and run apt-get update as root"
      entry=$(backports_entry "$release" "$mirror")
    fi
    ;;
  debian/trixie) targets=$packages ;;
  *) refuse_other_system ;;
esac

can_be_root || refuse_without_root

update=no
if [ -n "$entry" ]; then
  say "adding the $release-backports suite in $entry_file"
  printf '%s\n' "$entry" | as_root tee "$entry_file" >/dev/null
  update=yes
fi
# A suite that was added but never fetched shows up as a package without such a version.
for package in $packages; do
  case "$targets" in
    */*) apt-cache madison "$package" 2>/dev/null | grep -q "$release-backports/" || update=yes ;;
    *) has_candidate "$package" || update=yes ;;
  esac
done
[ "$update" = no ] || update_lists
say "installing QEMU ($targets)"
# shellcheck disable=SC2086 # The targets are several words on purpose.
if ! apt_get install --no-install-recommends $targets; then
  say 'the install failed; once more with fresh package lists'
  update_lists
  # shellcheck disable=SC2086
  apt_get install --no-install-recommends $targets
fi
ready || fail "QEMU is installed, but qemu-system-x86_64 on PATH is still not $floor or newer:" \
  "$(command -v qemu-system-x86_64)"
say "QEMU $(qemu_version) is ready"
