#!/bin/sh
# Devices that come and go. `devices listen` sees to those present, then runs this file for each of the kernel's events,
# which come as environment variables.

dhcp() {
    # The directory is the mark that a client runs: an interface can be announced and found at the same time.
    mkdir "/run/dhcp.$1" 2>/dev/null || return
    ip link set "$1" up
    udhcpc -f -i "$1" -s /etc/lease -x "hostname:$(hostname)" -p "/run/dhcp.$1/pid" -T 2 -A 4 >/dev/null 2>&1 &
}

if [ "$1" = listen ]; then
    # Listening starts before the look around, so that nothing falls between the two.
    {
        until grep -q '^[^ ]* *15 *[1-9]' /proc/net/netlink; do usleep 20000; done
        for interface in /sys/class/net/*; do
            [ -e "$interface/device" ] && dhcp "${interface##*/}"
        done
    } &
    exec uevent /etc/devices
fi

case $ACTION:$SUBSYSTEM in
add:net)
    [ -e "/sys$DEVPATH/device" ] && dhcp "$INTERFACE"
    ;;
remove:net)
    kill "$(cat "/run/dhcp.$INTERFACE/pid")" 2>/dev/null
    rm -rf "/run/dhcp.$INTERFACE"
    ;;
add:*)
    [ -n "$MODALIAS" ] && modprobe -bq "$MODALIAS" 2>/dev/null
    ;;
esac
