"""Turn a XenAPI facts document into src/kronos/datamodel/facts/: one file a class, one line an item.

    tools/facts.py FACTS.json

What follows from a field or a class (getters, setters, get_record, get_all…) is not written down: the model
derives it. Where the document disagrees with that derivation, the message gets a line of its own, which wins.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
TARGET = HERE / "src/kronos/datamodel/facts"
sys.path.insert(0, str(HERE / "src"))

Facts = dict[str, Any]


def line(value: object) -> str:
    return json.dumps(value, separators=(", ", ": "), ensure_ascii=False)


def role_of(roles: list[str], order: list[str]) -> str:
    """A list of roles as its lowest one; the client-certificate role stands outside the order."""
    if not roles:
        return ""
    ranked = [role for role in order if role != "client-cert"]
    lowest = max((role for role in roles if role != "client-cert"), key=ranked.index)
    if roles != [
        r for r in order if (r in ranked[: ranked.index(lowest) + 1]) or (r == "client-cert" and r in roles)
    ]:
        raise ValueError(f"roles are not closed upwards: {roles}")
    return lowest + ("+client-cert" if "client-cert" in roles and lowest != "read-only" else "")


def lifecycle(item: Facts) -> Facts:
    state = item["lifecycle"]["state"]
    return {} if state == "published" else {"state": state}


def keys_of(item: Facts, order: list[str]) -> Facts:
    keys = {each["key"]: role_of(each["roles"], order) for each in item.get("map_keys_roles", [])}
    return {"keys": keys} if keys else {}


def field_line(field: Facts, order: list[str]) -> Facts:
    out: Facts = {"name": field["name"], "type": field["type"], "qualifier": field["qualifier"]}
    if field["path"] != field["name"]:
        out["path"] = field["path"]
    if field["has_default"]:
        out["default"] = field["default"]
    getter = role_of(field.get("getter_roles") or [], order)
    if getter != "read-only":
        out["getter"] = getter
    if field.get("setter_roles") is not None:
        out["setter"] = role_of(field["setter_roles"], order)
    out |= keys_of(field, order)
    for flag in ("internal_only", "doc_only", "plain_ref_set", "setter_has_effect"):
        if field.get(flag):
            out[flag] = True
    if not field["persist"]:
        out["persist"] = False
    return out | lifecycle(field)


def param_line(param: Facts) -> list[Any]:
    if param.get("default") == [] and not param["type"].endswith((" set", " map")):
        return [
            param["name"],
            param["type"],
            "unknown",
        ]  # the document writes this one enum's default as a set
    return [param["name"], param["type"], *([param["default"]] if param["has_default"] else [])]


def message_line(message: Facts, order: list[str]) -> Facts:
    params = message["params"]
    out: Facts = {
        "name": message["name"],
        "params": [param_line(p) for p in params[1 if message["session"] else 0 :]],
        "result": message["result"],
        "role": role_of(message["roles"], order),
    }
    if message["kind"] != "custom":
        out["kind"] = message["kind"]
    if message["async"]:
        out["async"] = True
    if not message["session"]:
        out["session"] = False
    for flag in ("pool_internal", "hidden_from_docs"):
        if message[flag]:
            out[flag] = True
    out |= keys_of(message, order)
    if message["errors"]:
        out["errors"] = message["errors"]
    return out | lifecycle(message)


def class_text(cls: Facts, order: list[str], derived: dict[str, Facts]) -> str:
    head = {
        key: cls[key]
        for key in cls
        if key not in ("fields", "messages", "enums", "published_doc", "lifecycle")
    }
    head |= lifecycle(cls)
    ours = OUR_FIELDS.get(cls["name"], [])
    fields = [line(field) for field in [*(field_line(field, order) for field in cls["fields"]), *ours]]
    messages = [message_line(message, order) for message in cls["messages"]]
    own = [line(message) for message in messages if derived.get(message["name"]) != message]
    known = {message["name"] for message in messages}
    absent = [line({"name": name, "absent": True}) for name in derived if name not in known]
    enums = [f"{line(enum['name'])}: {line(enum['values'])}" for enum in cls["enums"]]

    def block(lines: list[str], opening: str, closing: str) -> str:
        return f"{opening}\n" + ",\n".join(lines) + f"\n{closing}" if lines else opening + closing

    parts = [f"{line(key)}: {line(value)}" for key, value in head.items()]
    parts.append('"fields": ' + block(fields, "[", "]"))
    parts.append('"messages": ' + block(own + absent, "[", "]"))
    parts.append('"enums": ' + block(enums, "{", "}"))
    return "{" + ",\n".join(parts) + "}\n"


# The reference keeps messages in files beside its database; here they are rows like any other.
OURS: dict[str, Facts] = {"message": {"persist": True}}

_MAP = "(string -> string) map"
# Fields that the reference has not, as they stand in the facts; see docs/guest-channel.md.
OUR_FIELDS: dict[str, list[Facts]] = {
    "VM": [
        {"name": "channel_config", "type": _MAP, "qualifier": "RW", "default": {}, "setter": "vm-admin"},
        {"name": "channel_data", "type": _MAP, "qualifier": "DynamicRO", "default": {}},
    ]
}


def main(source: Path) -> None:
    from kronos.datamodel.derivation import implied_messages

    facts: Facts = json.loads(source.read_text())
    order = [role["name"] for role in facts["roles_in_decreasing_privilege"]]
    TARGET.mkdir(parents=True, exist_ok=True)
    for old in TARGET.glob("*.json"):
        old.unlink()
    relations = facts["relations"]
    explicit = 0
    for cls in facts["classes"]:
        cls |= OURS.get(cls["name"], {})
        mirrors = {r["b_field"] for r in relations if r["b_class"] == cls["name"]}
        head = {k: v for k, v in cls.items() if k not in ("fields", "messages")} | lifecycle(cls)
        fields = [field_line(field, order) for field in cls["fields"]]
        derived = {m["name"]: m for m in implied_messages(head, fields, mirrors)}
        text = class_text(cls, order, derived)
        explicit += len(json.loads(text)["messages"])
        (TARGET / f"{cls['name']}.json").write_text(text)
    tables = {
        "_errors": {error["name"]: error["params"] for error in facts["errors"]},
        "_relations": [[r["a_class"], r["a_field"], r["b_class"], r["b_field"]] for r in relations],
        "_roles": order,
        "_http_actions": {
            action["name"]: {
                "method": action["method"],
                "uri": action["uri"],
                "role": role_of(action["roles"], order),
                "checked": not action["no_rbac_check"],
                "sub": {sub["name"]: role_of(sub["roles"], order) for sub in action["sub"]}
                if action["sub"] and isinstance(action["sub"][0], dict)
                else action["sub"],
            }
            for action in facts["http_actions"]
        },
        "_message_types": {message["name"]: message["priority"] for message in facts["message_types"]},
        "_permissions": {p["name"]: role_of(p["roles"], order) for p in facts["extra_permissions"]},
        "_emergency_calls": facts["emergency_calls"],
        "_supporter_calls": facts["allowed_on_supporter_without_forward"],
        "_schema": facts["schema"],
    }
    for name, table in tables.items():
        items = table.items() if isinstance(table, dict) else None
        lines = [f"{line(k)}: {line(v)}" for k, v in items] if items is not None else [line(v) for v in table]
        opening, closing = ("{", "}") if items is not None else ("[", "]")
        (TARGET / f"{name}.json").write_text(opening + "\n" + ",\n".join(lines) + "\n" + closing + "\n")
    print(f"{len(facts['classes'])} classes, {explicit} messages with a line of their own")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
