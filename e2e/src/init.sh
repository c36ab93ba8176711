#!/bin/busybox sh
# First process of the guest. Kernel messages go to the first serial port; on the second one the
# host sends jobs: a line "ID LINES" and so many lines of shell. Their output comes back as
# "@out ID ..." and ends with "@end ID CODE". Jobs run side by side.

run() {
	{
		sh "/jobs/$1" < /dev/null 2>&1
		echo $? > "/jobs/$1.code"
	} | awk -v id="$1" '{ print "@out " id " " $0; fflush() }'
	echo "@end $1 $(cat "/jobs/$1.code")"
}

agent() {
	echo "@ready"
	while IFS= read -r head; do
		id=${head% *}
		lines=${head#* }
		while [ "$lines" -gt 0 ]; do
			IFS= read -r line
			printf '%s\n' "$line"
			lines=$((lines - 1))
		done > "/jobs/$id"
		# Not a child of this shell: the end of a child interrupts `read`, which then forgets the
		# part of the line that it has.
		(run "$id" &)
	done
}

if [ "$1" = agent ]; then
	agent
	exit
fi
/bin/busybox mkdir -p /bin /sbin
/bin/busybox --install -s /bin
export PATH=/sbin:/bin LD_LIBRARY_PATH=/lib
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t debugfs debugfs /sys/kernel/debug
mount -t tmpfs tmp /tmp
while read -r module; do
	insmod "/modules/$module.ko"
done < /modules/order
for interface in /sys/class/net/eth*; do
	ip link set "${interface##*/}" up
done
insmod /modules/aoe.ko
stty raw -echo < /dev/ttyS1
sh "$0" agent < /dev/ttyS1 > /dev/ttyS1
poweroff -f
