"""Which bundle is in force: one or the other, whatever happens between them."""

from __future__ import annotations

import pytest

from kronos.system.bundles import Bundles


@pytest.fixture
def shelf(tmp_path):
    return Bundles(tmp_path / "bundles")


def filled(shelf: Bundles, text: str) -> None:
    with shelf.another() as place:
        (place / "tree").mkdir()
        (place / "tree/file").write_text(text)


def content(shelf: Bundles) -> str:
    current = shelf.current()
    assert current is not None
    return (current / "tree/file").read_text()


def test_there_is_none_at_first(shelf):
    assert shelf.current() is None
    shelf.tidy()
    shelf.clear()
    assert not shelf.place.exists()


def test_the_next_takes_the_place_of_the_one_before(shelf):
    filled(shelf, "1")
    first = shelf.current()
    filled(shelf, "2")
    assert content(shelf) == "2" and not first.exists()
    assert len(list(shelf.place.iterdir())) == 2


def test_one_that_fails_leaves_the_one_before(shelf):
    filled(shelf, "1")
    before = sorted(shelf.place.iterdir())
    with pytest.raises(RuntimeError), shelf.another() as place:
        (place / "half").write_text("of it")
        raise RuntimeError
    assert content(shelf) == "1" and sorted(shelf.place.iterdir()) == before


def test_what_a_crash_left_goes_at_the_next_start(shelf):
    filled(shelf, "1")
    (shelf.place / "half/tree").mkdir(parents=True)
    (shelf.place / ".next").symlink_to("half")
    shelf.tidy()
    assert content(shelf) == "1" and len(list(shelf.place.iterdir())) == 2


def test_a_folder_that_is_reached_through_a_link_is_kept_as_well(shelf, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    other = Bundles(tmp_path / "link/bundles")
    filled(other, "1")
    other.tidy()
    assert content(other) == content(shelf) == "1"


def test_all_of_them_can_be_removed(shelf):
    filled(shelf, "1")
    shelf.clear()
    assert shelf.current() is None and list(shelf.place.iterdir()) == []
