"""Mutations of bytes, of JSON text, and of the contents of gzip, zip and safetensors files.

Every function takes a `random.Random` and depends only on it and the content, so a mutation is reproducible.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes, Sequence[bytes]], bytes]
"""Maps a valid content, and valid contents to splice from, to a mutated one."""

MAGIC_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFF)
MAGIC_NUMBERS = (0, 1, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
NUMBER_FORMATS = {"<H": 2, ">H": 2, "<I": 4, ">I": 4, "<Q": 8, ">Q": 8}
FLOATS = (float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e30, 1e-30, 1e300)

NESTING = 100_000
LITERALS = ("NaN", "-Infinity", "1e999", "-1e999", "9" * 5000, "1" + "0" * 400, "1e308", "[" * NESTING + "]" * NESTING)
"""What `json.dumps` does not write; `json.loads` accepts some of it."""
HEADER_END = re.compile(rb"\n\n|ElementDataFile = LOCAL\n")
HEADER_WORDS = (
    b"0", b"-1", b"1", b"3", b"4", b"16", b"65536", b"4294967296", b"99999999999999999999", b"1e30", b"1e-30", b"1e999",
    b"nan", b"inf", b"0x10", b"1.5", b"none", b"True", b"False", b"LOCAL", b"LIST", b"../../x", b"/etc/passwd", b"%d",
    b"raw", b"gzip", b"ascii", b"hex", b"bzip2", b"uchar", b"double", b"block", b"MET_DOUBLE", b"MET_UCHAR_ARRAY", b"",
    b"big", b"LPS", b"right-anterior-superior-time", b"x" * 5000, b"\x00", b"\xff", b"\r", b"=", b":", b":=", b"#",
)  # fmt: skip
"""Words that NRRD and MetaImage headers have, or should not have."""
MARK = "\uffff"
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.5, 2**31, 2**63, -(2**63), 1e300, "", " ", "0", "a", "x" * 5000, "\x00", "\ud800",
    "../../x", "/dev/zero", "/", ".", "a/b", "$import os", [], {}, [[]], [None], {"a": 1}, ["a", "b"], [1, 2, 3],
)  # fmt: skip


def mutate_bytes(rng: Random, content: bytes, donors: Sequence[bytes] = ()) -> bytes:
    """Returns the content after one to four byte mutations."""
    mutated = bytearray(content)
    for _ in range(min(4, 1 + int(rng.expovariate(1.0)))):
        rng.choice(BYTE_MUTATIONS)(rng, mutated, donors)
    return bytes(mutated)


def mutate_json(rng: Random, content: bytes, donors: Sequence[bytes] = ()) -> bytes:
    """Returns JSON text with one to three nodes changed, or one time in four mutated bytes of it."""
    if rng.random() < 0.25:
        return mutate_bytes(rng, content, donors)
    root = [json.loads(content)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _change_node(rng, root)
    text = json.dumps(root[0])
    for index, literal in enumerate(LITERALS):
        text = text.replace(json.dumps(f"{MARK}{index}"), literal)
    return text.replace(json.dumps(MARK)[1:-1], "").encode()


def mutate_lines(rng: Random, content: bytes, donors: Sequence[bytes] = ()) -> bytes:
    """Returns JSON lines with one of them mutated as JSON, or mutated bytes."""
    lines = content.splitlines()
    if rng.random() < 0.3:
        return mutate_bytes(rng, content, donors)
    at = rng.randrange(len(lines))
    lines[at] = mutate_json(rng, lines[at], donors)
    return b"\n".join(lines) + b"\n" * rng.randrange(2)


def mutate_gzip(rng: Random, content: bytes, donors: Sequence[bytes] = ()) -> bytes:
    """Returns a whole gzip file of mutated bytes, or one time in three a mutated gzip file."""
    if rng.random() < 1 / 3 or content[:2] != b"\x1f\x8b":
        return mutate_bytes(rng, content, donors)
    return gzip.compress(mutate_bytes(rng, gzip.decompress(content)), compresslevel=1, mtime=0)


def mutate_zip(rng: Random, content: bytes, donors: Sequence[bytes] = ()) -> bytes:
    """Returns a whole zip file with one member mutated, left out or renamed, or one time in three mutated bytes."""
    if rng.random() < 1 / 3 or content[:2] != b"PK":
        return mutate_bytes(rng, content, donors)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    at, packed = rng.randrange(len(members)), io.BytesIO()
    action = rng.choice(("mutate", "mutate", "mutate", "head", "head", "drop", "rename"))
    with zipfile.ZipFile(packed, "w") as archive:
        for index, (info, member) in enumerate(members):
            if index == at and action == "drop":
                continue
            name = info.filename + "x" * (index == at and action == "rename")
            if index == at and action in ("mutate", "head"):
                head = len(member) if action == "mutate" else min(128, len(member))  # where shapes and types are stored
                member = mutate_bytes(rng, member[:head]) + member[head:]
            archive.writestr(zipfile.ZipInfo(name), member, compress_type=info.compress_type)
    return packed.getvalue()


def mutate_safetensors(rng: Random, content: bytes, donors: Sequence[bytes] = ()) -> bytes:
    """Returns a safetensors file with a mutated header of the right length, or one time in three mutated bytes."""
    if rng.random() < 1 / 3:
        return mutate_bytes(rng, content, donors)
    length = struct.unpack("<Q", content[:8])[0]
    header = mutate_json(rng, content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def mutate_header(rng: Random, content: bytes, donors: Sequence[bytes] = ()) -> bytes:
    """Returns a file with one to three words of its text header changed, or one time in three mutated bytes.

    The header is that of NRRD and MetaImage files: lines up to the first that is blank or begins with non-text.
    """
    if rng.random() < 1 / 3:
        return mutate_bytes(rng, content, donors)
    end = next((match.end() for match in HEADER_END.finditer(content)), len(content))
    lines, behind = content[:end].split(b"\n"), content[end:]
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        action = rng.choice(("word", "word", "word", "word", "drop", "repeat", "swap"))
        if action == "word":
            words = re.split(rb"([ ,()]+)", lines[at])
            words[rng.randrange(len(words))] = rng.choice((*HEADER_WORDS, *words))
            lines[at] = b"".join(words)
        elif action == "drop" and len(lines) > 1:
            del lines[at]
        elif action == "repeat":
            lines.insert(other, lines[at])
        elif action == "swap":
            lines[at], lines[other] = lines[other], lines[at]
    return b"\n".join(lines) + behind


def mutation_of(name: str) -> Mutation:
    """Returns the mutation for a file's name."""
    suffixes = {
        ".json": mutate_json, ".jsonl": mutate_lines, ".gz": mutate_gzip, ".npz": mutate_zip, ".pt": mutate_zip,
        ".safetensors": mutate_safetensors, **dict.fromkeys((".nrrd", ".nhdr", ".mha", ".mhd"), mutate_header),
    }  # fmt: skip
    return next((mutation for suffix, mutation in suffixes.items() if name.endswith(suffix)), mutate_bytes)


def _change_node(rng: Random, root: list[Any]) -> None:
    """Changes one node of a JSON tree; the tree itself is in a list of one."""
    nodes = list(_nodes(root))
    holder, key = rng.choice(nodes)
    action = rng.choice(("value", "value", "literal", "drop", "repeat", "swap", "nudge"))
    if action == "literal":
        holder[key] = f"{MARK}{rng.randrange(len(LITERALS))}"
    elif action == "drop" and holder is not root:
        del holder[key]
    elif action == "repeat" and isinstance(holder, dict):
        holder[f"{key}{MARK}"] = _value(rng)  # the mark is removed from the text, which gives a duplicate key
    elif action == "repeat" and holder is not root:
        holder.insert(key, copy.deepcopy(holder[key]))
    elif action == "swap":
        other, name = rng.choice(nodes)
        holder[key] = copy.deepcopy(other[name])
    elif action == "nudge" and isinstance(holder[key], (int, float)):
        holder[key] = rng.choice((holder[key] + 1, -holder[key], holder[key] * 10**9, float(holder[key]) + 0.5))
    else:
        holder[key] = _value(rng)


def _value(rng: Random) -> Any:
    return copy.deepcopy(rng.choice(VALUES))


def _nodes(holder: Any) -> Iterator[tuple[Any, Any]]:
    """Yields every node of a JSON tree as its container and its key or index."""
    keys = holder if isinstance(holder, dict) else range(len(holder))
    for key in list(keys):
        yield holder, key
        if isinstance(holder[key], (dict, list)):
            yield from _nodes(holder[key])


def _at(rng: Random, content: bytearray, size: int = 1) -> int:
    """Returns an offset for `size` bytes; half of them in the first 400, where headers are."""
    end = max(len(content) - size, 0)
    return rng.randint(0, min(end, 400) if rng.random() < 0.5 else end)


def _flip(rng: Random, content: bytearray, donors: Sequence[bytes]) -> None:
    if content:
        content[_at(rng, content)] ^= 1 << rng.randrange(8)


def _replace(rng: Random, content: bytearray, donors: Sequence[bytes]) -> None:
    if content:
        content[_at(rng, content)] = rng.choice((*MAGIC_BYTES, rng.randrange(256)))


def _number(rng: Random, content: bytearray, donors: Sequence[bytes]) -> None:
    form, size = rng.choice(list(NUMBER_FORMATS.items()))
    at = _at(rng, content, size)
    content[at : at + size] = struct.pack(form, rng.choice(MAGIC_NUMBERS) % 256**size)


def _float(rng: Random, content: bytearray, donors: Sequence[bytes]) -> None:
    at = _at(rng, content, 4) // 4 * 4
    value = rng.choice(FLOATS)
    content[at : at + 4] = struct.pack("<f", value if abs(value) < 1e38 or value != value else float("inf"))


def _digit(rng: Random, content: bytearray, donors: Sequence[bytes]) -> None:
    digits = [at for at, byte in enumerate(content[:4096]) if 48 <= byte < 58]
    if digits:
        content[rng.choice(digits)] = rng.choice(b"0123456789-.e")


def _truncate(rng: Random, content: bytearray, donors: Sequence[bytes]) -> None:
    del content[_at(rng, content) :]


def _delete(rng: Random, content: bytearray, donors: Sequence[bytes]) -> None:
    at = _at(rng, content)
    del content[at : at + rng.choice((1, 2, 4, 16, 256))]


def _insert(rng: Random, content: bytearray, donors: Sequence[bytes]) -> None:
    at = _at(rng, content)
    content[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16, 256)))


def _repeat(rng: Random, content: bytearray, donors: Sequence[bytes]) -> None:
    at, to = _at(rng, content), _at(rng, content)
    content[to:to] = content[at : at + rng.choice((4, 16, 64, 512))]


def _zero(rng: Random, content: bytearray, donors: Sequence[bytes]) -> None:
    at = _at(rng, content)
    size = len(content[at : at + rng.choice((2, 8, 64, 512))])
    content[at : at + size] = bytes(size)


def _splice(rng: Random, content: bytearray, donors: Sequence[bytes]) -> None:
    donor = bytearray(rng.choice(donors)) if donors else content
    at = _at(rng, content)
    content[at:] = donor[_at(rng, donor) :]


BYTE_MUTATIONS = (
    _flip, _flip, _replace, _replace, _number, _number, _float, _digit, _truncate, _delete, _insert, _repeat, _zero,
    _splice,
)  # fmt: skip
