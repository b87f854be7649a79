#!/bin/sh
# What makes the tiny guest a system VM (docs/system-vm.md), where the kernel's command line says kronos.role=system: what
# its configuration asks for is done, and the host is told. The configuration comes over the channel; for what that does
# not say, or where there is none, from the command line, as kronos.KEY=VALUE.
PATIENCE=50 # tenths of a second for the channel's first answer

argument() {
    for word in $(cat /proc/cmdline); do
        case $word in "kronos.$1="*) printf '%s' "${word#*=}" && return ;; esac
    done
}

value() { cat "/run/channel/config/$1" 2>/dev/null || argument "$1"; }
tell() { say "$@" 2>/dev/null; }

apply() {
    name=$(value hostname)
    [ -n "$name" ] && hostname "$name" && echo "127.0.0.1 localhost $name" >/etc/hosts
    address=$(value address)
    if [ -n "$address" ]; then
        kill "$(cat /run/dhcp.eth0/pid 2>/dev/null)" 2>/dev/null
        ip link set eth0 up
        ip -4 addr flush dev eth0
        ip addr add "$address" dev eth0
        gateway=$(value gateway)
        [ -n "$gateway" ] && ip route replace default via "$gateway"
    fi
    service=$(value service)
    case $service in
    http)
        mkdir -p /run/www
        printf '%s\n' "$(hostname)" >/run/www/index.html
        [ -e /run/service.http ] || { : >/run/service.http && httpd -p 80 -h /run/www; }
        ;;
    esac
    tell "hostname=$(hostname)" "configured=$1" ready=yes
}

# Addresses come and go. They are told to whoever runs the VM, and in the layout that agents for Xen have.
report() {
    set -- "data/os_name=Kronos system VM" "data/os_uname=$(uname -r)"
    for address in $(ip -o -4 addr show scope global | awk '{ sub("/.*", "", $4); print $2 "=" $4 }'); do
        case $address in
        eth*) set -- "$@" "address/${address%%=*}=${address#*=}" "attr/vif/${address:3:1}/ipv4/0=${address#*=}" ;;
        *) continue ;;
        esac
        [ -e /run/service.http ] && set -- "$@" "service/http=http://${address#*=}/"
    done
    [ "$*" = "$reported" ] && return
    tell "$@" "data/updated=$(date +%s)" && reported="$*"
}

boot() {
    disk=$(findfs LABEL=kronos-system) || return
    mkdir -p /boot && mount -t ext4 -o ro "$disk" /boot
    driver=$(readlink -f "/sys/class/block/${disk##*/}/../device/driver")
    tell "boot/disk=$disk" "boot/driver=${driver##*/}"
}

[ "$(argument role)" = system ] || exit 0
case $1 in
configured) apply channel ;;
*)
    until [ -e /run/channel/told ] || [ "$PATIENCE" -eq 0 ]; do
        usleep 100000
        PATIENCE=$((PATIENCE - 1))
    done
    [ -e /run/channel/told ] || apply command-line
    boot
    while :; do
        report
        sleep 2
    done
    ;;
esac
