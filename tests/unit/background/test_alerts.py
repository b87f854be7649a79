"""Alerts: new messages, mailed to a real server and given to a real script."""

from __future__ import annotations

import threading
from xml.etree import ElementTree

import pytest

from harness.mail import Sink
from kronos.api.message import tell
from kronos.background import alerts
from kronos.background.alerts import Alerts
from kronos.db.database import Database
from kronos.db.records import VM, Host, Message, Pool, Secret


@pytest.fixture
def db():
    made = Database()
    made.create(Host, software_version={"product_brand": "XCP-ng"})
    made.create(Pool, name_label="the pool")
    made.create(VM, uuid="vm-uuid", name_label="shop")
    return made


@pytest.fixture
def sink():
    with Sink() as running:
        yield running


def configured(db: Database, sink: Sink, **more: str) -> None:
    config = {"mail-destination": "ops@example.org", "ssmtp-mailhub": sink.address} | more
    db.all(Pool)[0].other_config = config


def alarm(db: Database, name: str = "ALARM", priority: int = 2, body: str = "value: 1.0") -> Message:
    return tell(db, name, priority, "VM", "vm-uuid", body)


def test_a_message_is_mailed(db, sink):
    configured(db, sink)
    Alerts(db, "")
    row = alarm(db, body="value: 1.0\nmöre")
    (mail,) = sink.wait()
    assert mail.recipients == ["ops@example.org"]
    assert mail.message["Subject"] == '[the pool] XCP-ng: ALARM (VM "shop")'
    text = mail.message.get_content()
    assert row.uuid in text and "vm-uuid" in text and text.splitlines()[-2:] == ["value: 1.0", "möre"]


def test_only_what_is_urgent_enough_is_mailed(db, sink):
    configured(db, sink, **{"mail-min-priority": "2", "mail-sender": "xen@example.org"})
    Alerts(db, "")
    alarm(db, "REMARK", 3)
    alarm(db, "URGENT", 2)
    (mail,) = sink.wait()
    assert "URGENT" in mail.message["Subject"] and mail.sender == "xen@example.org"


def test_everybody_named_gets_it(db, sink):
    configured(db, sink, **{"mail-destination": "a@example.org, b@example.org;c@example.org"})
    Alerts(db, "")
    alarm(db)
    assert sink.wait()[0].recipients == ["a@example.org", "b@example.org", "c@example.org"]


def test_the_server_is_logged_in_to_with_a_password_or_a_secrets(db, sink):
    secret = db.create(Secret, value="swordfish")
    Alerts(db, "")
    for key, value in {"ssmtp-authpass": "swordfish", "ssmtp-authpass_secret": secret.uuid}.items():
        configured(db, sink, **{"ssmtp-authuser": "xen", key: value})
        alarm(db)
    assert [mail.login for mail in sink.wait(2)] == [("xen", "swordfish")] * 2


def test_a_wrong_password_is_not_in_the_log(db, sink, caplog, monkeypatch):
    monkeypatch.setattr(alerts, "RETRIES", ())
    ended = threading.Event()
    real = alerts.log.warning
    monkeypatch.setattr(alerts.log, "warning", lambda *a: (real(*a), ended.set()))
    configured(db, sink, **{"ssmtp-authuser": "xen", "ssmtp-authpass": "trout"})
    Alerts(db, "")
    alarm(db)
    assert ended.wait(20)
    assert "refused the login of xen" in caplog.text and "trout" not in caplog.text


def test_a_server_that_is_busy_is_asked_again(db, sink, monkeypatch):
    monkeypatch.setattr(alerts, "RETRIES", (0.05,) * 100)
    sink.busy = True
    configured(db, sink)
    Alerts(db, "")
    alarm(db)
    threading.Timer(0.3, setattr, (sink, "busy", False)).start()
    assert len(sink.wait()) == 1


def test_a_name_with_a_line_break_makes_no_header_of_its_own(db, sink):
    configured(db, sink)
    db.all(VM)[0].name_label = "shop\nBcc: all@example.org"
    Alerts(db, "")
    alarm(db)
    (mail,) = sink.wait()
    assert mail.message["Bcc"] is None and mail.recipients == ["ops@example.org"]


def test_what_was_taken_back_is_told_to_nobody(db, sink):
    configured(db, sink)
    Alerts(db, "")
    with pytest.raises(ZeroDivisionError), db.transaction():
        alarm(db, "NEVER")
        raise ZeroDivisionError
    alarm(db, "AFTER")
    (mail,) = sink.wait()
    assert "AFTER" in mail.message["Subject"]


def test_the_script_gets_each_message_as_a_document(db, tmp_path):
    heard, script = tmp_path / "heard", tmp_path / "hook"
    script.write_text(f'#!/bin/sh\nprintf %s "$1" > {heard}.new\nmv {heard}.new {heard}\n')
    script.chmod(0o755)
    Alerts(db, str(script))
    row = alarm(db, body="<b>&amp;\n'")
    waiting = threading.Event()
    for _ in range(2000):
        if heard.exists():
            break
        waiting.wait(0.01)
    found = {each.tag: each.text for each in ElementTree.fromstring(heard.read_text())}
    assert found == {
        "ref": row.ref,
        "name": "ALARM",
        "priority": "2",
        "cls": "VM",
        "obj_uuid": "vm-uuid",
        "timestamp": row.timestamp,
        "uuid": row.uuid,
        "body": "<b>&amp;\n'",
    }


def test_those_that_wait_are_bounded(db, monkeypatch, caplog):
    monkeypatch.setattr(alerts, "MOST_WAITING", 2)
    told = Alerts(db, "")
    monkeypatch.setattr(told._appointments, "make", lambda *_: None)
    for _ in range(3):
        alarm(db)
    assert "left out" in caplog.text and len(db.all(Message)) == 3
