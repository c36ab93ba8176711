# The first process of a machine: this system's files under a writable layer that is gone with the
# machine, and nothing started but what the basis of a system needs. In namespaces of its own.
# $1: an empty folder.
set -eu
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
rm -rf etc/systemd/system/*.wants etc/systemd/system/*.requires etc/systemd/system/default.target
: >etc/fstab
# Packages may start services here, whatever this machine says about that.
rm -f usr/sbin/policy-rc.d
# The index of manual pages takes longer than all the rest.
rm -f var/lib/man-db/auto-update
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs tmpfs dev
for name in null zero full random urandom tty; do
    mknod -m 666 "dev/$name" c $(stat -c '%Hr %Lr' "/dev/$name")
done
mkdir dev/shm dev/pts
ln -s /proc/self/fd dev/fd
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    chroot . /lib/systemd/systemd --unit=basic.target --log-target=console --show-status=no
