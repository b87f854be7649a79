#!/bin/sh
# First process of the control domain's RAM disk: finds the disk and goes on from there.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done </modules/order
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    [ -b /dev/vda ] && break
    sleep 0.2
done
mount -t ext4 -o noatime /dev/vda /newroot || exec sh
for place in dev proc sys; do mount --move "/$place" "/newroot/$place"; done
exec switch_root /newroot /lib/systemd/systemd
