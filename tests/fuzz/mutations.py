"""Changes of files, each from an explicit random generator: structured by the file's type, or of bytes."""

from __future__ import annotations

import io
import json
import random
import tomllib
import zipfile
import zlib
from functools import cache

from tests.fuzz.hostile import as_json, as_toml, changed_data

Files = dict[str, bytes]
BYTES, STRUCTURE = "bytes", "structure"
_INTERESTING = (b"\x00" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x01\x00\x00\x00", b"\x00" * 8, b"\xff" * 8,
                b"\x00\x00\x00\x00\x00\x00\x00\x40", b"PK\x03\x04", b"\x93NUMPY")  # fmt: skip


def mutate(files: Files, rng: random.Random) -> tuple[Files, str]:
    """``(files, kind)``: a copy with one file changed, and how: ``bytes`` or ``structure``."""
    names = [name for name in files for _ in range(3 if name.endswith((".json", ".toml")) else 2)]
    name = rng.choice(names)
    structured = rng.random() < 0.7
    changed = _structured(name, files[name], rng) if structured else None
    if changed is None:
        return {**files, name: changed_bytes(files[name], rng)}, BYTES
    if rng.random() < 0.02:
        return {key: value for key, value in files.items() if key != name}, STRUCTURE
    return {**files, name: changed}, STRUCTURE


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flipped bits, numbers overwritten, cut, doubled, inserted."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not made:
            return bytes(rng.randbytes(rng.randrange(64)))
        place = rng.randrange(len(made)) if rng.random() < 0.6 else rng.choice((rng.randrange(min(len(made), 80)),
                len(made) - 1 - rng.randrange(min(len(made), 200))))  # fmt: skip
        action = rng.random()
        if action < 0.5:
            made[place] ^= 1 << rng.randrange(8)
        elif action < 0.6:
            made[place] = rng.randrange(256)
        elif action < 0.75:
            chunk = rng.choice(_INTERESTING)
            made[place : place + len(chunk)] = chunk
        elif action < 0.85:
            del made[place:]
        elif action < 0.93:
            del made[place : place + rng.choice((1, 4, 32, 500))]
        else:
            made[place:place] = rng.choice((rng.randbytes(rng.randrange(1, 40)), bytes(made[place : place + 64])))
    return bytes(made)


def _structured(name: str, data: bytes, rng: random.Random) -> bytes | None:
    """The file changed by its structure; None where its type has none."""
    suffix = name.rpartition(".")[2]
    if suffix == "json":
        return as_json(changed_data(json.loads(data), rng), rng)
    if suffix == "jsonl":
        lines = data.splitlines()
        place = rng.randrange(len(lines))
        lines[place] = as_json(changed_data(json.loads(lines[place]), rng), rng).replace(b"\n", b" ")
        return b"\n".join(lines)
    if suffix == "toml":
        return as_toml(changed_data(_plain_types(data), rng), rng)
    if suffix == "safetensors":
        return _safetensors(data, rng)
    if suffix in ("pt", "pth", "npz"):
        return _zip(data, rng)
    return None


def _plain_types(data: bytes) -> object:
    return json.loads(json.dumps(tomllib.loads(data.decode()), default=str))


def _safetensors(data: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    action = rng.random()
    if action < 0.1:
        claimed = rng.choice((0, 1, length - 1, length + 1, 2**32, 2**63, 2**64 - 1, len(data)))
        return claimed.to_bytes(8, "little") + data[8:]
    names = [key for key in header if key != "__metadata__"]
    one = rng.choice(names)
    if action < 0.3:
        header[one]["dtype"] = rng.choice(
            ("F64", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "X", "")
        )
    elif action < 0.45:
        header[one]["shape"] = rng.choice(([], [0], [1], header[one]["shape"][::-1], [2**62, 4], [*header[one]["shape"], 1],
                                           [-1], [1, *header[one]["shape"]], [0, 2**60]))  # fmt: skip
        if rng.random() < 0.4 and 0 in header[one]["shape"]:
            header[one]["data_offsets"] = [0, 0]
    elif action < 0.55:
        header[rng.choice((rng.choice(names), "W_enc", "\x1b[2J", "k", "threshold", "encoder.weight"))] = header.pop(one)
    elif action < 0.65:
        place = header[one]["data_offsets"][0]
        value = rng.choice(
            (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", b"\x00\x00\x80\xff", b"\x01\x00\x00\x00")
        )
        body = body[:place] + value + body[place + 4 :]
    elif action < 0.75:
        del header[one]
    else:
        header = changed_data(header, rng)
    text = as_json(header, rng)
    return len(text).to_bytes(8, "little") + text + body


def _zip(data: bytes, rng: random.Random) -> bytes | None:
    """A zip archive with a member changed, renamed, left out, doubled, compressed, or a bomb."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(each, archive.read(each)) for each in archive.namelist()]
    except zipfile.BadZipFile:
        return None
    place = rng.randrange(len(members))
    name, content = members[place]
    action = rng.random()
    if action < 0.55:
        members[place] = (name, changed_bytes(content, rng))
    elif action < 0.65:
        members[place] = (name + rng.choice((".npy", "x", "\x1b[2J", "/../../x")), content)
    elif action < 0.72:
        del members[place]
    elif action < 0.78:
        members.append(
            (rng.choice((name, "../../evil", "W_skip.npy", "archive/data/99", "/abs")), rng.choice((content, b"")))
        )
    elif action < 0.84:
        members[place] = (name, bytes(rng.choice((0, 1, 100, 200_000))))
    elif action < 0.87:
        return _bomb(name)
    return _packed(members, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)))


def _packed(members: list[tuple[str, bytes]], compression: int) -> bytes:
    import warnings

    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as archive:
        warnings.simplefilter("ignore")  # names that occur twice
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


@cache
def _bomb(name: str) -> bytes:
    """An archive of 16 GiB of zeros in one member, its sizes stated truly."""
    block, times = bytes(1 << 24), 1024
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = press.compress(block) + press.flush(zlib.Z_FULL_FLUSH)
    stream = piece * times + press.flush(zlib.Z_FINISH)
    size, crc = len(block) * times, 0
    head = name.encode()
    fields = (20).to_bytes(2, "little") + b"\0\0" + (8).to_bytes(2, "little") + bytes(4)
    sizes = crc.to_bytes(4, "little") + len(stream).to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little")
    local = b"PK\x03\x04" + fields + sizes + len(head).to_bytes(2, "little") + b"\0\0" + head + stream
    zip64 = b"\x01\x00\x08\x00" + size.to_bytes(8, "little")
    sizes = sizes[:8] + b"\xff" * 4
    central = (b"PK\x01\x02" + (45).to_bytes(2, "little") + fields + sizes + len(head).to_bytes(2, "little")
               + len(zip64).to_bytes(2, "little") + bytes(2 + 2 + 2 + 4 + 4) + head + zip64)  # fmt: skip
    end = (b"PK\x05\x06" + bytes(4) + b"\x01\x00" * 2 + len(central).to_bytes(4, "little")
           + len(local).to_bytes(4, "little") + b"\0\0")  # fmt: skip
    return local + central + end
