#!/bin/sh
# What xe-guest-utilities tell of a guest on Xen, in their layout, again whenever it changes.
exec 3<>/dev/xen/xenbus || exit 1

# A message of xenstored's protocol: type, request, transaction and length as 32-bit numbers, then the payload.
number() { printf "\\$(printf %o $(($1 & 255)))\\$(printf %o $(($1 >> 8 & 255)))\\000\\000"; }
put() {
    {
        number 11
        number 0
        number 0
        number $((${#1} + 1 + ${#2}))
        printf '%s\000%s' "$1" "$2"
    } >/run/xenstore.message
    cat /run/xenstore.message >&3
    dd bs=4096 count=1 <&3 >/dev/null 2>&1
}

addresses() {
    for link in /sys/class/net/*; do
        place=$(cat "$link/device/nodename" 2>/dev/null) || continue
        ip -o addr show dev "${link##*/}" | awk -v vif="${place##*/}" '
            $3 == "inet" || $3 == "inet6" {
                kind = $3 == "inet" ? "ipv4" : "ipv6"
                split($4, part, "/")
                print "attr/vif/" vif "/" kind "/" count[kind]++ + 0, part[1]
            }'
    done
}

put attr/PVAddons/MajorVersion 1
put attr/PVAddons/MinorVersion 0
put attr/PVAddons/MicroVersion 0
put attr/PVAddons/BuildVersion 1
put attr/PVAddons/Installed 1
put data/os_name "Kronos tiny guest 0.1"
put data/os_distro kronos-tiny
put data/os_majorver 0
put data/os_minorver 1
put data/os_uname "$(uname -r)"
put data/host_name "$(hostname)"
told=none
times=0
while :; do
    found=$(addresses)
    if [ "$found" != "$told" ]; then
        echo "$found" | while read -r path address; do [ -n "$path" ] && put "$path" "$address"; done
        awk '/^MemTotal/ { print "data/meminfo_total", $2 } /^MemAvailable/ { print "data/meminfo_free", $2 }' /proc/meminfo |
            while read -r path size; do put "$path" "$size"; done
        times=$((times + 1))
        put data/updated "$times $(date)"
        told=$found
    fi
    sleep 1
done
