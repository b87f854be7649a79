"""Operations that survive being killed: what they mean to do is written down first, and settled afterwards.

One rule covers making and removing: an image that an intent names, that is no volume's head and that no other image
is based on, has no use and goes. Nothing else is ever removed. docs/storage.md has the whole argument.
"""

from __future__ import annotations

import os
import uuid as uuids
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from kronos.storage.directory.catalogue import INTENT, SIDECAR, Catalogue, Contents
from kronos.storage.directory.files import Files
from kronos.storage.directory.sidecar import UUID, BadSidecar, Intent, Sidecar, read_intent


class HeldIntent:
    """An intent on disk, locked for as long as its operation lives, on whatever host that is."""

    def __init__(self, files: Files, intent: Intent) -> None:
        self._files = files
        self.name = f"{INTENT}{uuids.uuid4()}{SIDECAR}"
        self.intent = intent
        self._descriptor: int | None = None
        self.rewrite(intent)

    def rewrite(self, intent: Intent) -> None:
        """Say something else from now on."""
        self._files.write(self.name, intent.encode())
        self.intent = intent
        self.release()
        self._descriptor = self._files.hold(self.name)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Recovery:
    """Declares and settles intents. Its caller holds the SR's lock."""

    def __init__(self, files: Files, catalogue: Catalogue) -> None:
        self._files = files
        self._catalogue = catalogue
        self.unsettled = False
        """An operation failed and could not be undone: settle before the next one."""

    @contextmanager
    def operation(self, intent: Intent) -> Iterator[None]:
        """Do something that is undone if it fails, and finished or undone if the process dies."""
        held = self.declare(intent)
        try:
            yield
        except BaseException:
            self.conclude(held)
            raise
        try:
            self.retire(held)
        except OSError:  # it is done all the same; what is left on disk says so to whoever settles it
            self.unsettled = True

    def declare(self, intent: Intent) -> HeldIntent:
        return HeldIntent(self._files, intent)

    def retire(self, held: HeldIntent) -> None:
        """The operation is complete. Raises OSError."""
        try:
            self._files.remove(held.name)
        finally:
            held.release()

    def conclude(self, held: HeldIntent) -> None:
        """The operation has done what it could: finish or undo the rest, now if possible."""
        self.unsettled = True
        try:
            if self._settle(held.name, held.intent):
                self._files.remove(held.name)
            self.unsettled = False
        except OSError:
            pass
        finally:
            held.release()

    def settle(self) -> Contents:
        """Finish or undo whatever was interrupted; what runs at this moment is left alone. Raises OSError."""
        contents = self._catalogue.contents()
        for name in contents.unfinished:
            self._files.remove(name)
        for name in contents.intents:
            descriptor = self._files.hold(name)
            if descriptor is None:
                continue
            try:
                # An intent that can't be read was not written by us, since ours are written whole.
                with suppress(BadSidecar):
                    if self._settle(name, read_intent(self._files.read(name))):
                        self._files.remove(name)
            finally:
                os.close(descriptor)
        self.unsettled = False
        return self._catalogue.contents() if contents.intents else contents

    def pending_files(self, contents: Contents) -> set[str]:
        """Images that belong to an operation that has not ended."""
        names: set[str] = set()
        for name in contents.intents:
            with suppress(BadSidecar, FileNotFoundError):
                names.update(read_intent(self._files.read(name)).files)
        return names

    def _sweep(self, names: tuple[str, ...]) -> bool:
        """Remove those of `names` that are of no use. False: not all, as something is in doubt.

        An image that can't be read may be based on any other, and a sidecar that can't be read may be any image's.
        """
        contents = self._catalogue.contents()
        doubtful = {name for name in contents.bad_images if UUID.fullmatch(Path(name).stem)} - set(names)
        left = [name for name in names if name in contents.bad_images and not contents.bad_sidecars]
        if not doubtful and not contents.bad_sidecars:
            left = [name for name in names if name in contents.images or name in contents.bad_images]
        heads = contents.heads()
        while useless := [name for name in left if name not in heads and name not in contents.parents()]:
            for name in useless:
                self._files.remove(name)
                contents.images.pop(name, None)
                left.remove(name)
        return not doubtful and not contents.bad_sidecars

    def write(self, sidecar: Sidecar) -> None:
        """Make a volume what `sidecar` says."""
        name = sidecar.uuid + SIDECAR
        self._catalogue.forget(name)
        self._files.write(name, sidecar.encode())

    def _settle(self, name: str, intent: Intent) -> bool:
        """Finish or undo one operation. Is nothing left to do, so that its intent can go?"""
        try:
            if intent.switched and not self._settle_switch(intent):
                self._files.remove(intent.volume + SIDECAR)
            if intent.renamed:
                self._settle_rename(intent)
                return True
        except BadSidecar:
            return False
        if self._sweep(intent.files):
            return True
        if intent.switched:  # this much is decided, and must not be decided again when things have moved on
            self._files.write(name, Intent(files=intent.files).encode())
        return False

    def _settle_switch(self, intent: Intent) -> bool:
        """May the new volume stay? Moves the head of the old one if a guest may have moved already."""
        sidecar = self._catalogue.sidecar(intent.switched)
        if sidecar is None:
            return True
        if not intent.switching:
            return sidecar.head != intent.previous
        if sidecar.head == intent.previous:
            self.write(replace(sidecar, head=intent.head))
        return False

    def _settle_rename(self, intent: Intent) -> None:
        (name,) = intent.files
        taken = self._catalogue.sidecar(intent.volume)
        if (
            taken
            and taken.head == name
            and not self._files.exists(name)
            and self._files.exists(intent.renamed)
        ):
            self._files.rename(intent.renamed, name)
