#!/bin/sh
# Becomes a libvirtd that finds its packages where they belong, on a system where they are not
# installed: in a mount namespace of its own it sees the system's files with the packages' above
# them. What it writes goes with it, but for what lies in /bench.
#
#   libvirt-host.sh <packages> <scratch> <bench> <name> <certificates>
#
# Needs namespaces of its own for mounts and the name of the host, and root.
set -eu

packages=$1 scratch=$2 bench=$3 name=$4 certificates=$5

hostname "$name"
mount -t tmpfs tmpfs "$scratch"
cp -a "$packages" "$scratch/upper"
mkdir "$scratch/work" "$scratch/root"
mount -t overlay overlay "$scratch/root" \
  -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work"
cd "$scratch/root"
mkdir -p bench etc/libvirt/tls
mount --bind "$bench" bench
mount --bind "$certificates" etc/libvirt/tls
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run

id libvirt-qemu >/dev/null 2>&1 || {
  echo 'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin' >>etc/passwd
  echo 'libvirt-qemu:x:64055:' >>etc/group
}
cat >etc/libvirt/qemu.conf <<'END'
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
default_tls_x509_cert_dir = "/etc/libvirt/tls"
default_tls_x509_verify = 1
END
cat >etc/libvirt/libvirtd.conf <<END
host_uuid = "$(cat /proc/sys/kernel/random/uuid)"
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
listen_addr = "0.0.0.0"
auth_unix_rw = "none"
auth_unix_ro = "none"
END
exec chroot . /usr/sbin/libvirtd --listen
