# Run in the control domain's tree, once: what makes it come up quickly and open to our key.
export DEBIAN_FRONTEND=noninteractive
echo host1 >/etc/hostname
printf '127.0.0.1 localhost\n10.9.0.1 host1\n10.9.0.2 host2\n' >/etc/hosts
printf '/dev/vda / ext4 noatime 0 0\n' >/etc/fstab
printf 'nameserver 10.0.2.3\n' >/etc/resolv.conf
echo 0123456789abcdef0123456789abcdef >/etc/machine-id
mkdir -p /root/.ssh /share
install -m 600 /root.pub /root/.ssh/authorized_keys
chmod 700 /root/.ssh
ssh-keygen -A >/dev/null
printf 'UsePAM no\nUseDNS no\nGSSAPIAuthentication no\n' >>/etc/ssh/sshd_config.d/harness.conf
# The password that the tests of logins use.
echo 'root:a password of the tests' | chpasswd

# libvirt takes a CPU model only where the host has each of its features. The emulated CPU lacks VME, which every real one
# has, and Xen hides another; so no model would fit, and libvirt's driver for Xen would not start.
sed -i "/<feature name='vme'\/>/d" /usr/share/libvirt/cpu_map/x86_*.xml
sed -i 's/^#*auth_tcp.*/auth_tcp = "none"/; s/^#*listen_addr.*/listen_addr = "0.0.0.0"/' /etc/libvirt/libvirtd.conf
# What guests print is kept, for tests that look after the guest has gone.
printf 'XENCONSOLED_ARGS="--log=guest --log-dir=/var/log/xen/console"\nXENCONSOLED_TRACE=guest\n' >>/etc/default/xen
mkdir -p /var/log/xen/console

cat >/etc/systemd/system/control-domain-identity.service <<END
[Unit]
Before=libvirtd.service ssh.service libvirtd.socket libvirtd-tcp.socket
After=systemd-udev-settle.service systemd-udevd.service local-fs.target sysinit.target
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/control-domain-identity
[Install]
WantedBy=multi-user.target
END
systemctl enable control-domain-identity ssh libvirtd libvirtd-tcp.socket >/dev/null 2>&1
for unit in libvirt-guests xendomains e2scrub_reap e2scrub_all.timer apt-daily.timer apt-daily-upgrade.timer fstrim.timer \
    dpkg-db-backup.timer nbd-client systemd-timesyncd lvm2-monitor systemd-networkd systemd-networkd-wait-online; do
    systemctl disable "$unit" >/dev/null 2>&1 || true
done
for unit in systemd-firstboot systemd-random-seed systemd-pstore getty@tty1 serial-getty@hvc0 ldconfig \
    systemd-journal-catalog-update systemd-hwdb-update systemd-update-done systemd-logind systemd-machined modprobe@drm \
    modprobe@efi_pstore sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount systemd-update-utmp \
    systemd-update-utmp-runlevel systemd-binfmt proc-sys-fs-binfmt_misc.automount systemd-machine-id-commit dm-event.socket \
    lvm2-lvmpolld.socket blk-availability logrotate.timer systemd-tmpfiles-clean.timer kmod-static-nodes \
    systemd-remount-fs keyboard-setup console-setup systemd-network-generator; do
    systemctl mask "$unit" >/dev/null 2>&1 || true
done
for module in cfg80211 drm psmouse floppy pcspkr ata_generic ata_piix evdev serio_raw i2c_piix4 button bochs cirrus virtio_gpu \
    joydev mousedev; do
    echo "blacklist $module"
done >/etc/modprobe.d/harness.conf
rm -f /boot/initrd.img-*
