#!/bin/sh
# Builds the test guests' own programs into the folder given (default: the one this script lies in):
#   writer             the program inside the Linux guest (from writer.c)
#   boot-sector.bin    the guest that is only a boot sector (from boot-sector.S)
#   built-with.txt     the compiler and linker that made them
# The same compiler and linker give the same bytes; a test rebuilds and compares.
set -eu

sources=$(cd "$(dirname "$0")" && pwd)
output=$(cd "${1:-$sources}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$sources"

gcc -std=gnu11 -O2 -Wall -Wextra -Werror -m64 -march=x86-64 \
  -ffreestanding -fno-builtin -fno-pic -no-pie -static -nostdlib -nostartfiles \
  -fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=none -fno-ident \
  -fno-tree-loop-distribute-patterns -z noexecstack \
  -Wl,--build-id=none -Wl,-z,norelro -Wl,-z,noseparate-code -s \
  -o "$work/writer" writer.c

as --32 -o "$work/boot-sector.o" boot-sector.S
ld -m elf_i386 --build-id=none -Ttext 0x7c00 -o "$work/boot-sector.elf" "$work/boot-sector.o"
objcopy -O binary -j .text "$work/boot-sector.elf" "$work/boot-sector.bin"

chmod 644 "$work/boot-sector.bin"

{ gcc --version | head -n 1; ld --version | head -n 1; } >"$work/built-with.txt"

for file in writer boot-sector.bin built-with.txt; do cp "$work/$file" "$output/$file"; done
