/*
 * The little of an operating system's library that the guest's program needs: system calls, lines
 * of text on the console, and time. For x86_64 Linux.
 */
#ifndef DROVER_GUEST_SYSTEM_H
#define DROVER_GUEST_SYSTEM_H

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

enum {
  SYS_READ = 0, SYS_WRITE = 1, SYS_OPEN = 2, SYS_CLOSE = 3, SYS_MMAP = 9, SYS_IOCTL = 16,
  SYS_PREAD = 17, SYS_PWRITE = 18, SYS_NANOSLEEP = 35, SYS_FORK = 57, SYS_EXIT = 60, SYS_WAIT4 = 61,
  SYS_FDATASYNC = 75, SYS_SETSCHEDULER = 144, SYS_GETDENTS64 = 217, SYS_CLOCK_GETTIME = 228,
};
enum { O_RDONLY = 0, O_RDWR = 2, O_NOCTTY = 0400, O_DIRECT = 040000, O_DIRECTORY = 0200000 };
enum { EROFS = 30, EACCES = 13 };

static long call6(long n, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}
#define call(n, a, b, c) call6((n), (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define call4(n, a, b, c, d) call6((n), (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

/* ---- text ---- */

struct line {
  char text[96];
  u32 length;
};

static void put_char(struct line *line, char c) {
  if (line->length < sizeof line->text - 1) line->text[line->length++] = c;
}

static void put_text(struct line *line, const char *text) {
  while (*text) put_char(line, *text++);
}

static void put_number(struct line *line, u64 value, u32 base) {
  char digits[24];
  u32 n = 0;
  do {
    digits[n++] = "0123456789abcdef"[value % base];
    value /= base;
  } while (value);
  while (n) put_char(line, digits[--n]);
}

/* One write(2) for the whole line: the terminal layer keeps it in one piece. */
static void put_line(struct line *line) {
  line->text[line->length++] = '\n';
  u32 done = 0;
  while (done < line->length) {
    long n = call(SYS_WRITE, 1, line->text + done, line->length - done);
    if (n > 0) done += (u32)n;
  }
  line->length = 0;
}

static void report(const char *what, u64 first, u64 second) {
  struct line line = {.length = 0};
  put_text(&line, what);
  put_char(&line, ' ');
  put_number(&line, first, 16);
  put_char(&line, ' ');
  put_number(&line, second, 16);
  put_line(&line);
}

static void stop_with_error(const char *what, long negative_errno) {
  struct line line = {.length = 0};
  put_text(&line, "ERROR ");
  put_text(&line, what);
  put_char(&line, ' ');
  put_number(&line, (u64)-negative_errno, 10);
  put_line(&line);
  call(SYS_EXIT, 1, 0, 0);
  __builtin_unreachable();
}

static int begins_with(const char *text, const char *prefix) {
  while (*prefix)
    if (*text++ != *prefix++) return 0;
  return 1;
}

/* ---- time ---- */

static u64 now_us(void) {
  long time[2];
  call(SYS_CLOCK_GETTIME, 1, time, 0);
  return (u64)time[0] * 1000000UL + (u64)time[1] / 1000UL;
}

static void sleep_us(u64 us) {
  long time[2] = {(long)(us / 1000000UL), (long)(us % 1000000UL) * 1000L};
  if (us) call(SYS_NANOSLEEP, time, 0, 0);
}

/* ---- memory ---- */

/* The compiler may turn loops and copies into calls of these. */
void *memcpy(void *to, const void *from, u64 size) {
  u8 *out = to;
  const u8 *in = from;
  while (size--) *out++ = *in++;
  return to;
}

void *memset(void *to, int value, u64 size) {
  u8 *out = to;
  while (size--) *out++ = (u8)value;
  return to;
}

#endif
