"""Encodes Kafka's responses by kafka-python's schemas, from dictionaries; a field that is not given has its default.

The schema says what a version has: fields that it does not have are left out, so that one dictionary serves them all.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from .decoding import default_of, snake_case, within

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

    Writer = Callable[[bytearray, Any], None]

_NUMBERS: Final = {
    "int8": Struct(">b"),
    "int16": Struct(">h"),
    "uint16": Struct(">H"),
    "int32": Struct(">i"),
    "int64": Struct(">q"),
    "float64": Struct(">d"),
    "bool": Struct(">?"),
    "bitfield": Struct(">i"),
}
_NO_UUID: Final = bytes(16)


def put_varint(out: bytearray, value: int) -> None:
    """Append an unsigned number of variable length."""
    while value > 0x7F:  # noqa: PLR2004 - what fits into seven bits
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _number(code: Struct) -> Writer:
    pack = code.pack

    def write(out: bytearray, value: Any) -> None:
        out += pack(value)

    return write


def _put_length(out: bytearray, length: int, code: Struct, *, compact: bool) -> None:
    if compact:
        put_varint(out, length + 1)
    else:
        out += code.pack(length)


def _sized(code: Struct, *, compact: bool) -> Writer:
    """A text or bytes: its length (compact: one more, as a number of variable length; null: -1), then the bytes."""

    def write(out: bytearray, value: str | bytes | None) -> None:
        if value is None:
            _put_length(out, -1, code, compact=compact)
            return
        data = value.encode() if isinstance(value, str) else value
        _put_length(out, len(data), code, compact=compact)
        out += data

    return write


def _uuid(out: bytearray, value: UUID | None) -> None:
    out += _NO_UUID if value is None else value.bytes


def compile_writer(schema: Mapping[str, Any], version: int) -> Callable[[bytearray, Mapping[str, Any]], None]:
    """The writer of one version of a message, given its JSON schema."""
    return _structure(schema["fields"], version, flexible=within(version, schema["flexibleVersions"]))


def _structure(fields: Sequence[Mapping[str, Any]], version: int, *, flexible: bool) -> Writer:
    plain: list[tuple[str, Any, Writer]] = []
    tagged: list[tuple[int, str, Any, Writer]] = []
    for field in fields:
        if not within(version, field["versions"]):
            continue
        name, default = snake_case(field["name"]), default_of(field)
        write = _writer(field, version, flexible=flexible)
        if within(version, field.get("taggedVersions")):
            tagged.append((field["tag"], name, default, write))
        else:
            plain.append((name, default, write))
    tagged.sort(key=lambda entry: entry[0])

    def write_all(out: bytearray, value: Mapping[str, Any]) -> None:
        for name, default, write in plain:
            write(out, value.get(name, default))
        if flexible:
            _put_tags(out, [entry for entry in tagged if value.get(entry[1], entry[2]) != entry[2]], value)

    return write_all


def _put_tags(out: bytearray, tagged: Sequence[tuple[int, str, Any, Writer]], value: Mapping[str, Any]) -> None:
    put_varint(out, len(tagged))
    for tag, name, _, write in tagged:
        inner = bytearray()
        write(inner, value[name])
        put_varint(out, tag)
        put_varint(out, len(inner))
        out += inner


def _writer(field: Mapping[str, Any], version: int, *, flexible: bool) -> Writer:
    kind: str = field["type"]
    if not kind.startswith("[]"):
        return _of_kind(field, version, flexible=flexible)
    element = _of_kind({**field, "type": kind[2:], "nullableVersions": None}, version, flexible=flexible)

    def write(out: bytearray, value: Sequence[Any] | None) -> None:
        if value is None:
            _put_length(out, -1, _NUMBERS["int32"], compact=flexible)
            return
        _put_length(out, len(value), _NUMBERS["int32"], compact=flexible)
        for each in value:
            element(out, each)

    return write


def _of_kind(field: Mapping[str, Any], version: int, *, flexible: bool) -> Writer:
    kind: str = field["type"]
    code = _NUMBERS.get(kind)
    if code is not None:
        return _number(code)
    if kind == "string":
        return _sized(_NUMBERS["int16"], compact=flexible)
    if kind in ("bytes", "records"):
        return _sized(_NUMBERS["int32"], compact=flexible)
    if kind == "uuid":
        return _uuid
    write = _structure(field["fields"], version, flexible=flexible)
    if not within(version, field.get("nullableVersions")):
        return write

    def write_nullable(out: bytearray, value: Mapping[str, Any] | None) -> None:
        out.append(0xFF if value is None else 1)
        if value is not None:
            write(out, value)

    return write_nullable
