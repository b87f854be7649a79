# Run in the tree of a stock machine, once: what its administrator has set up before there was anything of ours.
export DEBIAN_FRONTEND=noninteractive
echo stock >/etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 stock\n' >/etc/hosts
printf '/dev/vda1 / ext4 errors=remount-ro 0 1\n' >/etc/fstab
printf 'nameserver 10.0.2.3\n' >/etc/resolv.conf
# As Debian's installer writes it.
cat >/etc/network/interfaces <<END
source /etc/network/interfaces.d/*

auto lo
iface lo inet loopback

allow-hotplug ens3
iface ens3 inet dhcp
END
mkdir -p -m 0700 /root/.ssh
install -m 600 /root.pub /root/.ssh/authorized_keys
printf 'UseDNS no\nGSSAPIAuthentication no\n' >/etc/ssh/sshd_config.d/serial.conf
# Its console is a serial line.
cat >/etc/default/grub.d/serial.cfg <<END
GRUB_TIMEOUT=1
GRUB_TERMINAL=serial
GRUB_CMDLINE_LINUX_DEFAULT=
GRUB_CMDLINE_LINUX="console=ttyS0"
GRUB_CMDLINE_LINUX_XEN_REPLACE="console=hvc0"
GRUB_CMDLINE_XEN="console=com1 com1=115200"
END
# The RAM disk has what this machine needs: one with everything takes ten minutes to make in emulation.
echo MODULES=dep >/etc/initramfs-tools/conf.d/targeted
rm /root.pub /furnish.sh
