"""Admission: who of a directory's users may come in, and with which rights. Denied unless a subject says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kronos.auth.base import SUSPENSIONS
from kronos.db.database import Database
from kronos.db.records import Role, Subject


def is_suspended(information: Mapping[str, str]) -> bool:
    """Whether an account is disabled, locked or expired. What the directory does not say counts as yes."""
    return any(information.get(key, "").lower() != "false" for key in SUSPENSIONS)


def why_suspended(information: Mapping[str, str]) -> str:
    """The reasons, for the log."""
    return ", ".join(key for key in SUSPENSIONS if information.get(key, "").lower() != "false")


def subjects_of(db: Database, identifier: str, groups: Iterable[str]) -> list[Subject]:
    """The pool's subjects that a user is: the user's own first, then those of groups, oldest first."""
    all_groups = frozenset(groups)
    subjects = db.all(Subject)
    own = [each for each in subjects if each.subject_identifier == identifier]
    return own + [each for each in subjects if each.subject_identifier in all_groups and each not in own]


def roles_of(db: Database, subjects: Iterable[Subject]) -> frozenset[str]:
    """The names of the roles and single permissions that subjects have. One that is gone counts for nothing."""
    refs = dict.fromkeys(ref for subject in subjects for ref in subject.roles)
    return frozenset(role.name_label for ref in refs if (role := db.find(Role, ref)) is not None)
