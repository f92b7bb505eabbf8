"""Values and texts that files of strangers may hold."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from typing import Any

CONTROL = "\x1b[2J\x1b]0;owned\x07\u202egnp\u2066\u200b\x00\r\n\x9b31m"
DEEP = "\ue000deep\ue001"
"""Stands for a value that is nested too deeply to be made; ``deepened`` puts it in place."""


def hostile_value(rng: random.Random) -> Any:
    """A value of another type or size than any reader expects."""
    return deepcopy(rng.choice(VALUES))


def nested(depth: int) -> Any:
    """Lists in objects in lists."""
    made: Any = 1
    for level in range(depth):
        made = [made] if level % 2 else {"n": made}
    return made


VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 16, 24, 2.5, -0.0, 1e-320, 1e308, -1e308, float("nan"), float("inf"),
    float("-inf"), 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400, "", " ", "7", "0", "nan", "true", "None", "relu", "topk",
    "x" * 70_000, "é" * 3000, "a b " * 4000, CONTROL, CONTROL * 200, "\ud800", "../../../etc/passwd", "/etc/passwd",
    "{a[0].b}", "%s%n", "<script>alert(1)</script>", [], {}, [None], [[]], [1, 2], [1, "2", None], ["x"] * 5000,
    {"": 0}, {"k": None}, {"name": {"name": []}}, {CONTROL: CONTROL}, list(range(2000)), {str(n): n for n in range(2000)},
    nested(40), nested(120), nested(300), {"a": nested(230)}, DEEP, [DEEP], {"k": DEEP},
)  # fmt: skip


def changed_data(data: Any, rng: random.Random) -> Any:
    """JSON data with one to three places changed. The data given is not altered."""
    made = json.loads(json.dumps(data))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        made = _changed(made, rng)
    return made


def _changed(data: Any, rng: random.Random) -> Any:
    places = _places(data)
    if not places or rng.random() < 0.02:
        return hostile_value(rng)
    holder, key = rng.choice(places)
    action = rng.random()
    if action < 0.15:
        del holder[key]
    elif action < 0.25:
        other, its = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[its])) if len(json.dumps(other[its])) < 10_000 else 0
    elif action < 0.33 and isinstance(holder, dict):
        holder[rng.choice(("k", "", "name", CONTROL, "\ud800", "threshold", "x" * 5000, "__class__"))] = hostile_value(rng)
    elif action < 0.4 and isinstance(holder, dict):
        holder[str(key) + rng.choice(("", " ", "_", CONTROL))] = holder.pop(key)
    elif action < 0.5 and type(holder[key]) in (int, float):
        number = holder[key]
        near = float(number) if abs(number) < 2**1000 else number
        holder[key] = rng.choice((-number, number + 1, number * 1000, near, str(number)))
    else:
        holder[key] = hostile_value(rng)
    return data


def _places(data: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [data]
    while waiting and len(found) < 4000:
        each = waiting.pop()
        if isinstance(each, dict | list):
            keys = list(each) if isinstance(each, dict) else range(len(each))
            found += [(each, key) for key in keys]
            waiting += [each[key] for key in keys]
    return found


def as_json(data: Any, rng: random.Random) -> bytes:
    """The data as JSON text, now and then with what ``json.dumps`` does not write."""
    text = json.dumps(data, indent=rng.choice((None, 1)))
    text = deepened(text, rng)
    odd = rng.random()
    if odd < 0.03:
        text = text.replace(":", ": 1" + "0" * 5000 + ', "z":', 1)
    elif odd < 0.06:
        text = text.replace("{", '{"k": 1, "k": 2, ', 1)
    elif odd < 0.08:
        text = "\ufeff" + text
    raw = text.encode("utf-8", "surrogatepass")
    return raw.replace(b'"', b'"\xff', 1) if 0.08 < odd < 0.1 else raw


def deepened(text: str, rng: random.Random) -> str:
    """The text with a tower of brackets in place of ``DEEP``."""
    for quoted in (json.dumps(DEEP), f'"{DEEP}"'):
        if quoted in text:
            depth = rng.choice((400, 900, 990, 1500, 20_000))
            tower = rng.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth))
            text = text.replace(quoted, tower)
    return text


def as_toml(data: Any, rng: random.Random) -> bytes:
    """The data as TOML, tables inline, now and then with TOML's own types or deep keys."""
    try:
        json.dumps(data)
        _toml(data)
    except RecursionError:
        return b"k = " + b"[" * 600 + b"]" * 600
    lines = [f"{_key(key)} = {_toml(value)}" for key, value in (data.items() if isinstance(data, dict) else [("x", data)])]
    odd = rng.random()
    extra = rng.choice((
        "when = 1979-05-27T07:32:00Z", "day = 1979-05-27", "clock = 07:32:00", ".".join("a" * 3000) + " = 1",
        "z = " + "[" * 5000 + "]" * 5000, "z = " + "{a=" * 3000 + "1" + "}" * 3000, "[" + ".".join("k" * 2000) + "]\nx = 1",
        "n = 0x" + "f" * 6000, "n = 1" + "0" * 5000, "k = 1\nk = 2", "[[k]]\n[k]", "tokens = 1979-05-27", "n = +inf",
        '"\\u001b[2J" = 1', "x = '''\x1b'''", ".".join("b" * 150) + " = 1",
    ))  # fmt: skip
    if odd < 0.2:
        lines.insert(rng.choice((0, len(lines))), extra)
    text = deepened("\n".join(lines), rng)
    return (text + "\n").encode("utf-8", "surrogatepass")


def _key(key: str) -> str:
    return json.dumps(key)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    if isinstance(value, float):
        return {"nan": "nan", "inf": "inf", "-inf": "-inf"}.get(str(value), repr(value))
    return '"none"' if value is None else json.dumps(value)
