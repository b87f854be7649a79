"""Entries of the Boot Loader Specification."""

from kronos.boot.guest_disk.bls import parse
from kronos.boot.guest_disk.menu import Entry


def _file(version, **more):
    lines = {"title": f"Linux {version}", "version": version, "linux": f"/vmlinuz-{version}", **more}
    return "".join(f"{name.replace('_', '-')} {value}\n" for name, value in lines.items())


def test_variables_come_from_grubenv_and_unknown_ones_are_empty():
    files = {
        "a-5.14.conf": _file(
            "5.14", options="$kernelopts ${tuned_params} quiet", initrd="/i.img $tuned_initrd"
        )
    }
    menu = parse(files, {"kernelopts": "root=/dev/mapper/x ro"}, by_name=True)
    assert menu.entries == [
        Entry("Linux 5.14", "a-5.14", "/vmlinuz-5.14", ("/i.img",), "root=/dev/mapper/x ro quiet")
    ]


def test_newest_first_by_the_files_names():
    files = {f"id-{version}.conf": _file(version) for version in ("5.9.1", "5.14.0-70", "5.14.0-427")}
    titles = [entry.title for entry in parse(files, {}, by_name=True).entries]
    assert titles == ["Linux 5.14.0-427", "Linux 5.14.0-70", "Linux 5.9.1"]


def test_entries_with_a_sort_key_come_first_and_newest_first_among_them():
    files = {
        "z.conf": _file("1"),
        "a.conf": _file("6.1", sort_key="debian"),
        "b.conf": _file("6.10", sort_key="debian"),
        "c.conf": _file("9", sort_key="fedora"),
    }
    assert [entry.identity for entry in parse(files, {}).entries] == ["b", "a", "c", "z"]


def test_the_default_is_the_saved_entry_or_what_loader_conf_matches():
    files = {"a-1.conf": _file("1"), "a-2.conf": _file("2")}
    assert parse(files, {"saved_entry": "a-1"}).default.identity == "a-1"
    assert parse(files, {}, untrusted_settings="timeout 3\ndefault a-1*\n").default.identity == "a-1"
    assert parse(files, {}).chosen("").identity == "a-2"


def test_counted_boots_are_no_part_of_the_identity():
    assert parse({"a-1+3-1.conf": _file("1")}, {}).entries[0].identity == "a-1"


def test_other_machines_and_efi_programs_are_left_out():
    files = {"arm.conf": _file("1", architecture="aa64"), "efi.conf": "title x\nefi /EFI/x.efi\n"}
    assert parse(files, {}).entries == []
