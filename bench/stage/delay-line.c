/*
 * Two network devices, one in each of two network namespaces, and between them a line on which
 * every packet is on its way for the same time. For kernels that cannot do it themselves.
 *
 *   delay-line <namespace> <namespace> <device> <microseconds>
 *
 * Prints a line once both devices exist. Ends when its standard input does.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/*
 * As on a network for migrations. The kernel hands segments of up to 64 KiB over whole, as it does
 * to a network card, so that one small program can carry them all. Packets that are as large in
 * truth are no way to do that: the receiver's window does not grow beyond two of them.
 */
#define MTU 9000
#define LARGEST 65536
#define PLACES 4096

struct packet {
  long due_ns;
  int length;
  unsigned char bytes[sizeof(struct virtio_net_hdr) + LARGEST];
};

/* One direction: what was read from a device and waits for its time to be written to the other. */
struct direction {
  int from;
  int to;
  unsigned first;
  unsigned count;
  struct packet *packets;
};

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static long now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000L + time.tv_nsec;
}

static int open_device(const char *namespace, const char *name) {
  int place = open(namespace, O_RDONLY | O_CLOEXEC);
  if (place < 0 || setns(place, CLONE_NEWNET) < 0) fail(namespace);
  close(place);
  int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
  if (device < 0) fail("/dev/net/tun");
  struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (ioctl(device, TUNSETIFF, &request) < 0) fail("TUNSETIFF");
  unsigned offload = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
  if (ioctl(device, TUNSETOFFLOAD, offload) < 0) fail("TUNSETOFFLOAD");
  int any = socket(AF_INET, SOCK_DGRAM, 0);
  request.ifr_mtu = MTU;
  if (any < 0 || ioctl(any, SIOCSIFMTU, &request) < 0) fail("SIOCSIFMTU");
  close(any);
  return device;
}

static void take(struct direction *way, long delay_ns) {
  while (way->count < PLACES) {
    struct packet *packet = &way->packets[(way->first + way->count) % PLACES];
    ssize_t length = read(way->from, packet->bytes, sizeof packet->bytes);
    if (length <= 0) return;
    packet->length = (int)length;
    packet->due_ns = now_ns() + delay_ns;
    way->count++;
  }
}

/* Writes all that is due. Answers when the next one is, or 0 if there is none. */
static long give(struct direction *way) {
  while (way->count > 0) {
    struct packet *packet = &way->packets[way->first];
    if (packet->due_ns > now_ns()) return packet->due_ns;
    /* What the device does not take is lost, as on any line. */
    if (write(way->to, packet->bytes, (size_t)packet->length) < 0) (void)0;
    way->first = (way->first + 1) % PLACES;
    way->count--;
  }
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: delay-line <namespace> <namespace> <device> <microseconds>\n");
    return 2;
  }
  int left = open_device(argv[1], argv[3]), right = open_device(argv[2], argv[3]);
  long delay_ns = atol(argv[4]) * 1000L;
  struct direction ways[2] = {{.from = left, .to = right}, {.from = right, .to = left}};
  for (int i = 0; i < 2; i++) {
    ways[i].packets = malloc(PLACES * sizeof(struct packet));
    if (!ways[i].packets) fail("malloc");
  }
  /* Otherwise the kernel wakes it up to 50 us late. */
  prctl(PR_SET_TIMERSLACK, 1);
  if (nice(-10) == -1) (void)0;
  puts("ready");
  fflush(stdout);
  struct pollfd polls[3] = {
    {.fd = left, .events = POLLIN}, {.fd = right, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
  for (;;) {
    long due = 0;
    for (int i = 0; i < 2; i++) {
      take(&ways[i], delay_ns);
      long next = give(&ways[i]);
      if (next && (!due || next < due)) due = next;
      polls[i].events = ways[i].count < PLACES ? POLLIN : 0;
    }
    long wait = due ? due - now_ns() : 1000000000L;
    if (wait < 0) wait = 0;
    struct timespec limit = {.tv_sec = wait / 1000000000L, .tv_nsec = wait % 1000000000L};
    if (ppoll(polls, 3, &limit, NULL) < 0) fail("ppoll");
    if (polls[2].revents) return 0;
  }
}
