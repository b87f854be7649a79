#!/bin/sh
# First process: prepares the devices, then becomes busybox's init, which keeps consoles and services running.
export PATH=/bin

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /run
mount -t devpts devpts /dev/pts

name=tiny
for word in $(cat /proc/cmdline); do
    case $word in hostname=?*) name=${word#hostname=} ;; esac
done
hostname "$name"
echo "127.0.0.1 localhost $name" >/etc/hosts
ip link set lo up

# The bus drivers first: the devices behind them have names only then.
load() { cat "$@" 2>/dev/null | sort -u | xargs -r modprobe -abq 2>/dev/null; }
modprobe -aq button evdev 2>/dev/null
load /sys/bus/*/devices/*/modalias
load /sys/bus/virtio/devices/*/modalias

{
    echo '::respawn:/etc/devices listen'
    echo '::respawn:/etc/agent'
    echo '::respawn:/etc/channel'
    echo '::once:/etc/system'
    [ -c /dev/xen/xenbus ] && echo '::respawn:/etc/xenstore'
    # A power button may be missing (Xen PVH): then there is nothing to listen to.
    grep -qs PNP0C0C /sys/class/input/input*/phys || grep -qs LNXPWRBN /sys/class/input/input*/phys &&
        echo '::respawn:/bin/acpid -f -l /dev/null'
    # 0 is a serial port that is not there.
    [ "$(cat /sys/class/tty/ttyS0/type 2>/dev/null)" -gt 0 ] 2>/dev/null &&
        echo 'ttyS0::respawn:/bin/getty -L 115200 ttyS0 vt100'
    [ -e /sys/class/tty/hvc0 ] && echo 'hvc0::respawn:/bin/getty -L 0 hvc0 vt100'
    echo 'tty1::respawn:/bin/getty 0 tty1 linux'
    echo '::ctrlaltdel:/bin/reboot'
    echo '::shutdown:/bin/sync'
    echo '::shutdown:/bin/umount -a -r'
} >/etc/inittab
exec /bin/linuxrc
