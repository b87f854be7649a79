from __future__ import annotations

import platform
from pathlib import Path

import pytest

from kronos.boot import kernel_source
from kronos.boot.kernel_source import downloaded, installed
from kronos.datamodel.errors import Failure


def install(root: Path, release: str, image: str = "boot/vmlinuz-{}") -> None:
    tree = root / "lib/modules" / release
    (tree / "kernel").mkdir(parents=True)
    (tree / "modules.builtin").touch()
    (root / "boot").mkdir(exist_ok=True)
    (root / image.format(release)).touch()


def test_the_running_kernel_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "6.1.0-9-amd64")
    install(tmp_path, "6.1.0-10-amd64")
    monkeypatch.setattr(platform, "release", lambda: "6.1.0-9-amd64")
    found = installed(tmp_path)
    assert found is not None
    assert found.release == "6.1.0-9-amd64"


def test_otherwise_the_newest_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "6.1.0-9-amd64")
    install(tmp_path, "6.1.0-10-amd64")
    monkeypatch.setattr(platform, "release", lambda: "5.4.0-container")
    found = installed(tmp_path)
    assert found is not None
    assert found.release == "6.1.0-10-amd64"


def test_a_kernel_beside_its_modules_is_found(tmp_path: Path) -> None:
    install(tmp_path, "6.17.1-300.fc43.x86_64", "lib/modules/{}/vmlinuz")
    found = installed(tmp_path)
    assert found is not None
    assert found.image == tmp_path / "lib/modules/6.17.1-300.fc43.x86_64/vmlinuz"


def test_modules_without_a_kernel_are_none(tmp_path: Path) -> None:
    install(tmp_path, "6.1.0-9-amd64")
    (tmp_path / "boot/vmlinuz-6.1.0-9-amd64").unlink()
    assert installed(tmp_path) is None


def test_a_package_name_with_something_else_in_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        kernel_source, "run", lambda *_, **__: "linux-image-amd64\n  Depends: --option\n  Depends: x;y\n"
    )
    with pytest.raises(Failure, match="INTERNAL_ERROR"), downloaded(tmp_path, print):
        pass
