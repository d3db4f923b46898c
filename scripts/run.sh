#!/bin/sh
# Behind `npm run demo`, `npm test` and `npm run bench`: does whatever set-up is still missing, then
# the thing itself.
#
#   run.sh demo [args...]   the demo, with the arguments handed on
#   run.sh test [args...]   the tests, with the arguments handed on to vitest
#   run.sh bench [args...]  builds, then the bench, with the arguments handed on
#   run.sh setup            the set-up alone
#
# Set-up talks on stderr only, so that stdout belongs to the demo or the tests.
set -eu

checkout=$(cd "$(dirname "$0")/.." && pwd)
cd "$checkout"
cache="${DROVER_CACHE:-$checkout/.cache}"
stamp=node_modules/.drover-lock

say() { printf 'set-up: %s\n' "$*" >&2; }

# What node_modules was made from: the lock file's content, whatever its date.
lock_sum() { cksum <package-lock.json; }

install_packages() {
  [ -d node_modules ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(lock_sum)" ] && return
  # npm's own record is newer than the lock file where somebody ran npm by hand.
  if [ ! -f "$stamp" ] && [ node_modules/.package-lock.json -nt package-lock.json ]; then
    lock_sum >"$stamp"
    return
  fi
  say 'installing the npm packages (npm ci)'
  npm ci --no-audit --no-fund --loglevel=error >&2
  lock_sum >"$stamp"
}

check_node() {
  command -v node >/dev/null 2>&1 || { say 'Node.js 20.19 or newer is missing on PATH'; exit 1; }
  node -e 'const [a, b] = process.versions.node.split(".").map(Number);
    process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' && return
  say "Drover needs Node.js 20.19 or newer, and this is $(node --version)"
  exit 1
}

set_up() {
  check_node
  install_packages
  sh scripts/setup-qemu.sh
  sh scripts/setup-guest.sh
}

# Two runs at once must not both install: the second waits. The kernel drops the lock with its
# holder.
set_up_alone() {
  mkdir -p "$cache"
  command -v flock >/dev/null 2>&1 || { set_up; return; }
  exec 9>"$cache/set-up.lock"
  flock -n 9 || { say 'waiting for another set-up to finish'; flock 9; }
  set_up
  exec 9>&-
}

task=${1:-}
[ $# -eq 0 ] || shift
case "$task" in
  demo | test | bench) set_up_alone ;;
  setup) set_up_alone; exit 0 ;;
  *) say "usage: run.sh demo|test|bench|setup [args...]"; exit 2 ;;
esac
if [ "$task" = demo ]; then exec node --import tsx scripts/demo.ts "$@"; fi
if [ "$task" = bench ]; then
  # Agents are measured as they are installed. Another program can be measured in their place.
  [ -n "${DROVER_BENCH_PROGRAM:-}" ] || sh scripts/build.sh >&2
  exec node --import tsx bench/main.ts "$@"
fi
exec node node_modules/vitest/vitest.mjs run "$@"
