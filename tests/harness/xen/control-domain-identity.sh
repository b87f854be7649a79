#!/bin/sh
set -e
# What tells one control domain of an image from another: kronos.host=N on the kernel's command line.
number=1
for word in $(cat /proc/cmdline); do case $word in kronos.host=*) number=${word#*=} ;; esac; done
hostname "host$number"
echo "host$number" >/etc/hostname
sed -i "s/^#*host_uuid =.*/host_uuid = \"00000000-0000-4000-8000-00000000000$number\"/" /etc/libvirt/libvirtd.conf
for link in /sys/class/net/*; do
    case $(cat "$link/address") in
    52:54:00:12:34:*)
        ip addr add 10.0.2.15/24 dev "${link##*/}"
        ip link set "${link##*/}" up
        ip route add default via 10.0.2.2
        ;;
    52:54:00:12:35:*)
        # A bridge that makes its own address of the machine's identity has the same one on every copy of the image.
        ip link add pair address "52:54:00:12:36:0$number" type bridge
        ip addr add "10.9.0.$number/24" dev pair
        ip link set "${link##*/}" master pair up
        ip link set pair up
        ;;
    esac
done
