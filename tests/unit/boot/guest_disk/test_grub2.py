"""grub.cfg as grub-mkconfig writes it."""

import pytest

from kronos.boot.guest_disk.grub2 import parse
from kronos.boot.guest_disk.menu import Entry
from kronos.boot.guest_disk.unreadable import BootUnreadable

DEBIAN = r"""
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="0"
fi
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
export menuentry_id_option
function savedefault {
  if [ -z "${boot_once}" ]; then
    saved_entry="${chosen}"
    save_env saved_entry
  fi
}
if loadfont unicode ; then set gfxmode=auto; fi
menuentry 'Debian GNU/Linux' --class debian --class os $menuentry_id_option 'simple-1' {
    load_video
    if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
    set root='hd0,msdos1'
    if [ x$feature_platform_search_hint = xy ]; then
      search --no-floppy --fs-uuid --set=root --hint-bios=hd0,msdos1 1234-abcd
    else
      search --no-floppy --fs-uuid --set=root 1234-abcd
    fi
    echo    'Loading Linux 6.1 ...'
    linux    /boot/vmlinuz-6.1 root=UUID=1234-abcd ro quiet "dyndbg=file drivers/usb/* +p"
    initrd    /boot/initrd.img-6.1
}
submenu 'Advanced options' $menuentry_id_option 'advanced-1' {
    menuentry 'Linux 6.1' $menuentry_id_option '6.1-advanced' {
        linux    /boot/vmlinuz-6.1 root=UUID=1234-abcd ro
        initrd    /boot/ucode.img /boot/initrd.img-6.1
    }
    menuentry 'Linux 5.10' $menuentry_id_option '5.10-advanced' {
        linux    /boot/vmlinuz-5.10 root=UUID=1234-abcd ro
        initrd    /boot/initrd.img-5.10
    }
}
menuentry "Memory test" { linux16 /boot/memtest.bin }
if [ -f ${config_directory}/custom.cfg ]; then source ${config_directory}/custom.cfg; fi
"""


class Surroundings:
    def __init__(self, files=None, found=None, entries=None):
        self.files, self.found, self.bls = files or {}, found or {}, entries or {}

    def read(self, name):
        return self.files.get(name)

    def find(self, kind, value):
        return self.found.get((kind, value))

    def entries(self, device):
        return self.bls


def _menu(text, **surroundings):
    return parse(text, Surroundings(**surroundings), "loop0,msdos1", "/boot/grub")


def test_the_default_entry_with_kernel_ramdisk_arguments_and_device():
    menu = _menu(DEBIAN, found={("uuid", "1234-abcd"): "loop0,msdos1"})
    assert menu.default == Entry(
        "Debian GNU/Linux",
        "simple-1",
        "/boot/vmlinuz-6.1",
        ("/boot/initrd.img-6.1",),
        "root=UUID=1234-abcd ro quiet dyndbg=file drivers/usb/* +p",
        "loop0,msdos1",
    )


def test_a_device_that_is_not_found_stays_the_one_that_was_set():
    assert _menu(DEBIAN).default.device == "hd0,msdos1"


def test_entries_of_submenus_follow_in_order():
    assert [entry.title for entry in _menu(DEBIAN).entries] == [
        "Debian GNU/Linux",
        "Linux 6.1",
        "Linux 5.10",
        "Memory test",
    ]


def test_several_ramdisks_stay_several():
    assert _menu(DEBIAN).entries[1].ramdisks == ("/boot/ucode.img", "/boot/initrd.img-6.1")


@pytest.mark.parametrize(
    ("default", "title"),
    [
        ("0", "Debian GNU/Linux"),
        ("1", "Linux 6.1"),
        ("1>1", "Linux 5.10"),
        ("advanced-1>5.10-advanced", "Linux 5.10"),
        ("Advanced options>Linux 5.10", "Linux 5.10"),
        ("2", "Memory test"),
        ("not there", "Debian GNU/Linux"),
    ],
)
def test_the_default_by_number_title_identity_and_in_submenus(default, title):
    assert _menu(DEBIAN.replace('default="0"', f'default="{default}"')).default.title == title


def test_the_saved_entry_comes_from_grubenv():
    text = DEBIAN.replace('default="0"', 'default="${saved_entry}"')
    environment = "# GRUB Environment Block\nsaved_entry=advanced-1>5.10-advanced\n######"
    menu = _menu(text, files={"(loop0,msdos1)/boot/grub/grubenv": environment})
    assert menu.default.title == "Linux 5.10"
    assert _menu(text).default.title == "Debian GNU/Linux"


def test_an_entry_for_the_next_boot_only_is_not_heeded_because_it_could_not_be_cleared():
    environment = "next_entry=Memory test\n"
    assert (
        _menu(DEBIAN, files={"(loop0,msdos1)/boot/grub/grubenv": environment}).default.title
        == "Debian GNU/Linux"
    )


def test_conditions_choose_between_branches():
    text = """
    set a=x
    if [ "$a" = y ]; then set k=/one; elif [ -n "$nothing" -o 3 -gt 2 ]; then set k=/two; else set k=/three; fi
    if [ ! -z "$a" ] ; then set arguments="p  q"; fi
    menuentry m { linux $k $arguments "$arguments" }
    """
    assert _menu(text).entries == [Entry("m", "", "/two", (), "p q p  q", "loop0,msdos1")]


def test_entries_see_the_variables_as_the_whole_configuration_left_them():
    assert _menu("set k=/a\nmenuentry m { linux $k }\nset k=/b\n").entries[0].kernel == "/b"


def test_what_an_entry_sets_is_gone_with_it():
    menu = _menu("menuentry a { set root=hd9; linux /a }\nmenuentry b { linux /b }\n")
    assert [entry.device for entry in menu.entries] == ["hd9", "loop0,msdos1"]


def test_blscfg_brings_the_specifications_entries_with_grubs_variables():
    entry = "title Fedora\nlinux /vmlinuz-6\ninitrd /initramfs-6.img\noptions $kernelopts\n"
    text = 'set default="${saved_entry}"\nset kernelopts="root=/dev/vda2 ro"\ninsmod blscfg\nblscfg\n'
    menu = _menu(text, entries={"m-6.conf": entry, "m-5.conf": entry.replace("6", "5")})
    assert menu.default == Entry(
        "Fedora", "m-6", "/vmlinuz-6", ("/initramfs-6.img",), "root=/dev/vda2 ro", "loop0,msdos1"
    )


def test_an_efi_partitions_configuration_leads_to_another_one():
    text = "search --fs-uuid --set=root 77\nset prefix=($root)/grub2\nconfigfile $prefix/grub.cfg\n"
    menu = _menu(
        text,
        found={("uuid", "77"): "loop0,gpt2"},
        files={"(loop0,gpt2)/grub2/grub.cfg": "menuentry m { linux /vmlinuz }"},
    )
    assert menu.default.device == "loop0,gpt2"


def test_a_hypervisors_modules_are_the_kernel_and_its_ramdisk():
    text = "menuentry Xen { multiboot2 /xen.gz\n module2 /vmlinuz placeholder root=/dev/sda1\n module2 --nounzip /i }"
    assert _menu(text).entries == [Entry("Xen", "", "/vmlinuz", ("/i",), "root=/dev/sda1", "loop0,msdos1")]


def test_loops_are_passed_over():
    text = "while true; do set a=b; done\nfor x in 1 2; do menuentry n { linux /n }; done\nmenuentry m { linux /m }\n"
    assert [entry.kernel for entry in _menu(text).entries] == ["/m"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("menuentry a {\n" * 10_000, "nested"),
        ("submenu a {\n" * 20 + "menuentry m { linux /x }" + "}\n" * 20, "nested"),
        ("if true; then\n" * 10_000, "nested"),
        ("a " * 200_000, "words"),
        ("$a" * 200_000, "words"),
        ("menuentry a { linux /a }\n" * 1000, "entries"),
        ("set a=xxxxxxxx\n" + 'set a="$a$a$a$a$a$a$a$a"\n' * 10, "longer"),
        ("menuentry m { linux /a " + "x" * 5000 + " }", "arguments"),
        ("menuentry m { linux /a 'b\nc' }", "control character"),
    ],
)
def test_what_only_means_harm_is_refused(text, reason):
    with pytest.raises(BootUnreadable, match=reason):
        _menu(text)


def test_a_configuration_that_reads_itself_ends():
    text = "source /x\nmenuentry m { linux /m }\n"
    assert _menu(text, files={"(loop0,msdos1)/x": text}).default.kernel == "/m"
