/*
 * The program inside the Linux test guest. It has no libc: system calls only, so that the binary is
 * small, the same everywhere, and may be committed beside this file.
 *
 * It proves, from the inside, that a move lost nothing and ran nothing twice. One process per duty,
 * so that a slow disk never holds up the heartbeat:
 *
 *   one per disk   writes numbered 4 KiB blocks durably (O_DIRECT, fdatasync), acknowledges each
 *   RAM            rewrites its working set, and checks first what it wrote the round before
 *   heartbeat      a line every few milliseconds, under the real-time scheduler
 *
 * Lines on the serial console, each written by one write(2), so that they never mix:
 *
 *   D <disk> <name> <slots> <seq>   at start: disk number, kernel name, slots, first number to come
 *   D <disk> <name> ro              at start: a disk that cannot be written is left alone
 *   READY                           everything has started
 *   A <disk> <seq> [<us>]           block <seq> and all before it are durable on the disk
 *                                   (hexadecimal, as all but H); with drover.latency=1 also how
 *                                   long the disk took for it
 *   H <count> <us>                  counter and the guest's CLOCK_MONOTONIC, both decimal
 *   R <round>                       the RAM working set was checked and rewritten once more
 *   BAD RAM <page> <round>          a page does not hold what was written to it
 *   ERROR <what> <errno>            something else is wrong
 *
 * The guest's clock stands still while QEMU has the guest paused (measured under TCG: across a stop
 * of 511 ms it went on by 13 ms), so two heartbeats around a move are about one interval apart for
 * the guest. The downtime as somebody outside sees it is the gap between the arrival of those lines
 * on the host.
 *
 * Block <seq> lives in slot (seq modulo slots), at byte 65536 + slot * 4096. Each of its 1024
 * little-endian 32-bit words is known from disk and number alone: see fill_block(). A reader can
 * therefore tell a torn or misplaced block from a good one. On start the newest block found on the
 * disk is continued.
 *
 * Kernel command line, all optional:
 *   drover.disks=N       wait up to 10 s until N disks are there (default: take what is there)
 *   drover.write_ms=N    pause after each acknowledged write, 0 for none (default 5)
 *   drover.write_kib=N   KiB that one write takes, 4 to 64: so many blocks at once (default 4)
 *   drover.latency=1     tell with each acknowledgement how long it took, in microseconds
 *   drover.slots=N       slots per disk, at most as many as fit (default 4096)
 *   drover.ram_mib=N     RAM working set, 0 for none (default 16)
 *   drover.ram_rate=N    MiB of RAM rewritten per second (default 8)
 *   drover.ram_words=N   64-bit words of each page that are rewritten from the second round on, all
 *                        512 by default: a page is dirty from the first one on, and each takes time
 *   drover.beat_ms=N     time between two heartbeats (default 10)
 */

#include "system.h"

#define BLOCK_BYTES 4096UL
#define FIRST_BLOCK_BYTE 65536UL
#define SCAN_BYTES 65536UL
#define PAGE_BYTES 4096UL
#define PAGE_WORDS (PAGE_BYTES / sizeof(u64))
#define MAX_DISKS 16
#define MAX_BLOCKS_AT_ONCE 16
#define MAGIC 0x52565244U /* "DRVR" */

struct disk {
  char name[16];
  int fd;
  u32 number;
  u64 slots;
  u64 seq;
};

static char command_line[4096];
static struct disk disks[MAX_DISKS];
static u32 disk_count;
static u8 scan_buffer[SCAN_BYTES] __attribute__((aligned(4096)));

/* ---- set-up ---- */

static void read_command_line(void) {
  long fd = call(SYS_OPEN, "/proc/cmdline", O_RDONLY, 0);
  if (fd < 0) stop_with_error("cmdline", fd);
  call(SYS_READ, fd, command_line, sizeof command_line - 1);
  call(SYS_CLOSE, fd, 0, 0);
}

/* The number given as "<key>N" on the kernel command line, or the fallback. */
static u64 setting(const char *key, u64 fallback) {
  for (const char *at = command_line; *at; at++) {
    if ((at != command_line && at[-1] != ' ') || !begins_with(at, key)) continue;
    while (*key) key++, at++;
    u64 value = 0;
    while (*at >= '0' && *at <= '9') value = value * 10 + (u64)(*at++ - '0');
    return value;
  }
  return fallback;
}

/* No newline translation: every byte on the serial line costs a trip into QEMU. */
static void use_serial_console(void) {
  struct {
    u32 flags[4];
    u8 rest[44];
  } terminal;
  long fd = call(SYS_OPEN, "/dev/ttyS0", O_RDWR | O_NOCTTY, 0);
  if (fd < 0) stop_with_error("ttyS0", fd);
  call(SYS_IOCTL, fd, 0x5401, &terminal);
  terminal.flags[1] &= ~1U; /* OPOST */
  terminal.flags[3] &= ~8U; /* ECHO */
  call(SYS_IOCTL, fd, 0x5402, &terminal);
  /* dup2: from here on file descriptor 1 is the console. */
  call(33, fd, 1, 0);
}

static int is_disk(const char *name) {
  return (begins_with(name, "vd") || begins_with(name, "sd")) && name[2] && !name[3];
}

/* virtio disks first, then SCSI and IDE, each by letter. */
static int sorts_before(const char *left, const char *right) {
  if (left[0] != right[0]) return left[0] == 'v';
  return left[2] < right[2];
}

static void list_disks(void) {
  disk_count = 0;
  long fd = call(SYS_OPEN, "/sys/block", O_RDONLY | O_DIRECTORY, 0);
  if (fd < 0) stop_with_error("sysfs", fd);
  long size;
  while ((size = call(SYS_GETDENTS64, fd, scan_buffer, sizeof scan_buffer)) > 0) {
    for (long at = 0; at < size;) {
      u8 *entry = scan_buffer + at;
      at += *(unsigned short *)(entry + 16);
      const char *name = (const char *)entry + 19;
      if (!is_disk(name) || disk_count == MAX_DISKS) continue;
      u32 place = disk_count++;
      while (place > 0 && sorts_before(name, disks[place - 1].name)) {
        disks[place] = disks[place - 1];
        place--;
      }
      for (u32 i = 0; i < 4; i++) disks[place].name[i] = name[i];
    }
  }
  call(SYS_CLOSE, fd, 0, 0);
}

static void await_disks(u64 wanted) {
  u64 limit = now_us() + 10000000UL;
  for (list_disks(); disk_count < wanted; list_disks()) {
    if (now_us() > limit) stop_with_error("disks", -(long)disk_count);
    sleep_us(10000);
  }
}

/* ---- disk ---- */

/* The words are scrambled so that a block is incompressible and no two blocks are alike. */
static u32 block_word(u32 disk, u64 seq, u32 index) {
  u32 x = ((u32)seq ^ (index * 0x9e3779b9U) ^ (disk * 0x85ebca6bU)) + 0x7f4a7c15U;
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= x >> 15;
  x *= 0x846ca68bU;
  return x ^ (x >> 16);
}

/* Words 0..5 of every 512-byte sector: magic, disk, seq low, seq high, ~seq low, ~seq high. */
static void fill_block(u32 *words, u32 disk, u64 seq) {
  for (u32 i = 0; i < BLOCK_BYTES / 4; i++) words[i] = block_word(disk, seq, i);
  for (u32 i = 0; i < BLOCK_BYTES / 4; i += 128) {
    words[i] = MAGIC;
    words[i + 1] = disk;
    words[i + 2] = (u32)seq;
    words[i + 3] = (u32)(seq >> 32);
    words[i + 4] = (u32)~seq;
    words[i + 5] = (u32)(~seq >> 32);
  }
}

/* Finds the newest block of an earlier run, so that numbers never start over on a used disk. */
static u64 newest_block(struct disk *disk) {
  u64 newest = 0;
  for (u64 at = 0; at < disk->slots * BLOCK_BYTES; at += SCAN_BYTES) {
    long n = call4(SYS_PREAD, disk->fd, scan_buffer, SCAN_BYTES, FIRST_BLOCK_BYTE + at);
    if (n < 0) stop_with_error("read", n);
    for (long offset = 0; offset + (long)BLOCK_BYTES <= n; offset += BLOCK_BYTES) {
      u32 *words = (u32 *)(scan_buffer + offset);
      u64 seq = words[2] | (u64)words[3] << 32;
      u64 inverse = words[4] | (u64)words[5] << 32;
      if (words[0] == MAGIC && seq == ~inverse && seq > newest) newest = seq;
    }
  }
  return newest;
}

static void open_disk(struct disk *disk, u64 slots) {
  struct line line = {.length = 0};
  char path[24] = "/dev/";
  for (u32 i = 0; i < 4; i++) path[5 + i] = disk->name[i];
  put_text(&line, "D ");
  put_number(&line, disk->number, 16);
  put_char(&line, ' ');
  put_text(&line, disk->name);
  long fd = call(SYS_OPEN, path, O_RDWR | O_DIRECT, 0);
  if (fd == -EROFS || fd == -EACCES) {
    disk->fd = -1;
    put_text(&line, " ro");
    put_line(&line);
    return;
  }
  if (fd < 0) stop_with_error("open", fd);
  u64 size = 0;
  call(SYS_IOCTL, fd, 0x80081272, &size); /* BLKGETSIZE64 */
  if (size < FIRST_BLOCK_BYTE + BLOCK_BYTES) stop_with_error("size", -(long)disk->number);
  u64 fitting = (size - FIRST_BLOCK_BYTE) / BLOCK_BYTES;
  disk->fd = (int)fd;
  disk->slots = slots < fitting ? slots : fitting;
  disk->seq = newest_block(disk) + 1;
  put_char(&line, ' ');
  put_number(&line, disk->slots, 16);
  put_char(&line, ' ');
  put_number(&line, disk->seq, 16);
  put_line(&line);
}

struct load {
  u64 pause_us;
  u64 blocks_at_once;
  u64 tells_latency;
};

static void write_blocks(struct disk *disk, struct load load) {
  static u32 words[MAX_BLOCKS_AT_ONCE * BLOCK_BYTES / 4] __attribute__((aligned(4096)));
  struct line line = {.length = 0};
  u64 count = load.blocks_at_once;
  /* Blocks that are written at once lie side by side. */
  disk->slots -= disk->slots % count;
  disk->seq = (disk->seq + count - 1) / count * count;
  for (;; disk->seq += count) {
    u64 at = FIRST_BLOCK_BYTE + disk->seq % disk->slots * BLOCK_BYTES;
    for (u64 i = 0; i < count; i++)
      fill_block(words + i * (BLOCK_BYTES / 4), disk->number, disk->seq + i);
    u64 start = now_us();
    long n = call4(SYS_PWRITE, disk->fd, words, count * BLOCK_BYTES, at);
    if (n != (long)(count * BLOCK_BYTES)) stop_with_error("write", n);
    n = call(SYS_FDATASYNC, disk->fd, 0, 0);
    if (n < 0) stop_with_error("fdatasync", n);
    put_text(&line, "A ");
    put_number(&line, disk->number, 16);
    put_char(&line, ' ');
    put_number(&line, disk->seq + count - 1, 16);
    if (load.tells_latency) {
      put_char(&line, ' ');
      put_number(&line, now_us() - start, 16);
    }
    put_line(&line);
    sleep_us(load.pause_us);
  }
}

/* ---- RAM ---- */

static u64 ram_word(u64 page, u64 round, u64 index) {
  return (page * 0x9e3779b97f4a7c15UL) ^ (round * 0xc2b2ae3d27d4eb4fUL) ^ (index << 40) ^ index;
}

static void dirty_ram(u64 mib, u64 mib_per_second, u64 rewritten) {
  u64 pages = mib * 256, round = 0;
  long memory = call6(SYS_MMAP, 0, (long)(pages * PAGE_BYTES), 3, 0x22, -1, 0);
  if (memory < 0 && memory > -4096) stop_with_error("mmap", memory);
  u64 start = now_us(), written = 0;
  for (;; round++) {
    for (u64 page = 0; page < pages; page++) {
      u64 *words = (u64 *)(memory + (long)(page * PAGE_BYTES));
      u64 count = round ? rewritten : PAGE_WORDS;
      u64 last = PAGE_WORDS - 1;
      if (count < PAGE_WORDS && words[last] != ram_word(page, 0, last)) {
        report("BAD RAM", page, round);
      }
      for (u64 i = 0; i < count; i++) {
        if (round && words[i] != ram_word(page, round - 1, i)) {
          report("BAD RAM", page, round);
          break;
        }
      }
      for (u64 i = 0; i < count; i++) words[i] = ram_word(page, round, i);
      if (++written % 16) continue;
      u64 due = start + written * (1000000UL / 256UL) / mib_per_second, now = now_us();
      if (due > now) {
        sleep_us(due - now);
      } else if (now - due > 500000UL) {
        start = now; /* Too slow for this rate: never try to catch up, the disks want a turn. */
        written = 0;
      }
    }
    struct line line = {.length = 0};
    put_text(&line, "R ");
    put_number(&line, round, 16);
    put_line(&line);
  }
}

/* ---- heartbeat ---- */

static void beat(u64 interval_us) {
  struct line line = {.length = 0};
  int priority = 1;
  call(SYS_SETSCHEDULER, 0, 1, &priority); /* SCHED_FIFO: nothing else in the guest holds it up. */
  u64 due = now_us();
  for (u64 count = 0;; count++) {
    put_text(&line, "H ");
    put_number(&line, count, 10);
    put_char(&line, ' ');
    put_number(&line, now_us(), 10);
    put_line(&line);
    due += interval_us;
    u64 now = now_us();
    if (due > now) sleep_us(due - now);
    else due = now;
  }
}

static u64 between(u64 least, u64 value, u64 most) {
  return value < least ? least : value > most ? most : value;
}

static int in_child(void) {
  long pid = call(SYS_FORK, 0, 0, 0);
  if (pid < 0) stop_with_error("fork", pid);
  return pid == 0;
}

__attribute__((used)) static void run(void) {
  read_command_line();
  use_serial_console();
  await_disks(setting("drover.disks=", 0));
  u64 blocks = setting("drover.write_kib=", 4) / 4;
  struct load load = {
    .pause_us = setting("drover.write_ms=", 5) * 1000UL,
    .blocks_at_once = between(1, blocks, MAX_BLOCKS_AT_ONCE),
    .tells_latency = setting("drover.latency=", 0),
  };
  u64 slots = setting("drover.slots=", 4096);
  u64 ram_mib = setting("drover.ram_mib=", 16), ram_rate = setting("drover.ram_rate=", 8);
  u64 ram_words = between(1, setting("drover.ram_words=", PAGE_WORDS), PAGE_WORDS);
  u64 beat_us = setting("drover.beat_ms=", 10) * 1000UL;
  for (u32 i = 0; i < disk_count; i++) {
    disks[i].number = i;
    open_disk(&disks[i], slots > load.blocks_at_once ? slots : load.blocks_at_once);
  }
  if (in_child()) beat(beat_us ? beat_us : 1000UL);
  for (u32 i = 0; i < disk_count; i++)
    if (disks[i].fd >= 0 && in_child()) write_blocks(&disks[i], load);
  if (ram_mib && ram_rate && in_child()) dirty_ram(ram_mib, ram_rate, ram_words);
  struct line line = {.length = 0};
  put_text(&line, "READY");
  put_line(&line);
  for (;;) {
    int status = 0;
    long pid = call4(SYS_WAIT4, -1, &status, 0, 0);
    if (pid < 0) sleep_us(1000000UL);
    else report("ERROR process ended", (u64)pid, (u64)status);
  }
}

__asm__(".globl _start\n_start:\n  xor %ebp, %ebp\n  and $-16, %rsp\n  call run\n  hlt\n");
