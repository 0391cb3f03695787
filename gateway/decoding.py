"""Decodes Kafka's requests by kafka-python's schemas, under limits, and says which field is wrong.

kafka-python's own decoder trusts its input: a number of variable length may go on without end, and 64 kB of it cost
0.3 seconds, 256 kB sixteen times as much; tagged fields are no better. Here every length is held against what is left
of the frame, numbers of variable length have five bytes at most, and a request has a bounded number of elements.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from ..errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ELEMENTS_MAX: Final = 100_000
"""Elements of all arrays of one request together: so many take a tenth of a second."""
_VARINT_BYTES_MAX: Final = 5
_VERSION_MAX: Final = 2**15 - 1
_NO_UUID: Final = UUID(int=0)


class Message:
    """A decoded structure: its fields are attributes, named as kafka-python names them; absent ones have defaults."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.__dict__.update(fields)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Have whatever field the schema has."""

    def __repr__(self) -> str:
        return f"Message({self.__dict__!r})"


class Cursor:
    """The bytes of one request, and how far they are read."""

    __slots__ = ("data", "elements", "end", "position")

    def __init__(self, data: bytes | bytearray | memoryview, position: int = 0) -> None:
        self.data = memoryview(data)
        self.position = position
        self.end = len(data)
        self.elements = 0

    def take(self, size: int) -> int:
        """Go on by so many bytes, and say where they begin."""
        position = self.position
        if size > self.end - position:
            message = f"it takes {size} bytes, and {self.end - position} are left of the request"
            raise InvalidRequestError(message)
        self.position = position + size
        return position

    def count(self, number: int) -> int:
        """Check how many elements an array has; each is one byte long at least."""
        left = self.end - self.position
        self.elements += max(0, number)
        if number > left:
            message = f"it has {number} elements, and {left} bytes are left of the request"
            raise InvalidRequestError(message)
        if self.elements > ELEMENTS_MAX:
            message = f"the request has {self.elements} elements up to here, and {ELEMENTS_MAX} are allowed"
            raise InvalidRequestError(message)
        return number

    def varint(self) -> int:
        """An unsigned number of variable length, 32 bits at most."""
        value = shift = 0
        for _ in range(_VARINT_BYTES_MAX):
            byte = self.data[self.take(1)]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:  # noqa: PLR2004 - the bit that says that the number goes on
                return value
            shift += 7
        message = f"it is a number of more than {_VARINT_BYTES_MAX} bytes"
        raise InvalidRequestError(message)


def _number(code: str) -> Callable[[Cursor], Any]:
    packed = Struct(f">{code}")
    unpack, size = packed.unpack_from, packed.size

    def read(cursor: Cursor) -> Any:
        return unpack(cursor.data, cursor.take(size))[0]

    return read


_NUMBERS: Final = {
    "int8": _number("b"),
    "int16": _number("h"),
    "uint16": _number("H"),
    "int32": _number("i"),
    "int64": _number("q"),
    "float64": _number("d"),
    "bool": _number("?"),
}
_int16, _int32 = _NUMBERS["int16"], _NUMBERS["int32"]


def _uuid(cursor: Cursor) -> UUID | None:
    position = cursor.take(16)
    found = UUID(bytes=bytes(cursor.data[position : position + 16]))
    return None if found == _NO_UUID else found


def _text(cursor: Cursor, length: int) -> str:
    position = cursor.take(length)
    try:
        return str(cursor.data[position : position + length], "utf-8")
    except UnicodeDecodeError as error:
        message = f"it is no UTF-8: {error.reason} at byte {error.start}"
        raise InvalidRequestError(message) from error


def _slice(cursor: Cursor, length: int) -> bytes:
    position = cursor.take(length)
    return bytes(cursor.data[position : position + length])


def _sized(
    read: Callable[[Cursor, int], Any], length: Callable[[Cursor], int], *, compact: bool, nullable: bool
) -> Callable[[Cursor], Any]:
    """A text, bytes or an array: its length (compact: one more, as a number of variable length), then what it holds."""

    def read_sized(cursor: Cursor) -> Any:
        size = cursor.varint() - 1 if compact else length(cursor)
        if size >= 0:
            return read(cursor, size)
        if size != -1 or not nullable:
            message = f"its length is {size}" if size != -1 else "it is null, and must not be"
            raise InvalidRequestError(message)
        return None

    return read_sized


class _FieldError(InvalidRequestError):
    """What is wrong, and with which field."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class _Field(NamedTuple):
    """One field of a structure, in one version."""

    name: str
    read: Callable[[Cursor], Any]


def _versions(text: str | None) -> tuple[int, int]:
    """The range that a schema's text such as "3+", "0-4", "7" or "none" means."""
    if not text or text == "none":
        return 0, -1
    first, dash, last = text.rstrip("+").partition("-")
    return int(first), int(last) if dash else _VERSION_MAX if text.endswith("+") else int(first)


def within(version: int, text: str | None) -> bool:
    """Whether a version is in the range that a schema's text means."""
    first, last = _versions(text)
    return first <= version <= last


def snake_case(name: str) -> str:
    """A schema's name as kafka-python spells it: ``GroupInstanceId`` becomes ``group_instance_id``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def compile_reader(schema: Mapping[str, Any], version: int) -> Callable[[Cursor], Message]:
    """The reader of one version of a message, given its JSON schema. It raises InvalidRequestError.

    Bytes that follow the message are left alone, as Kafka does it: librdkafka's Metadata requests have some.
    """
    flexible = within(version, schema["flexibleVersions"])
    return _structure(schema["name"], schema["fields"], version, flexible=flexible)


def _structure(
    name: str, fields: Sequence[Mapping[str, Any]], version: int, *, flexible: bool
) -> Callable[[Cursor], Any]:
    present = [field for field in fields if within(version, field["versions"])]
    tagged = {field["tag"]: field for field in present if within(version, field.get("taggedVersions"))}
    readers = {
        field["name"]: _Field(snake_case(field["name"]), _reader(field, version, flexible=flexible))
        for field in present
    }
    tags = {tag: readers.pop(field["name"]) for tag, field in tagged.items()}
    plain = list(readers.values())
    defaults = {snake_case(field["name"]): default_of(field) for field in fields}

    def read(cursor: Cursor) -> Message:
        found = dict(defaults)
        where = ""
        try:
            for field in plain:
                where = field.name
                found[where] = field.read(cursor)
            if flexible:
                where = "tagged fields"
                for _ in range(cursor.count(cursor.varint())):
                    _read_tag(cursor, tags, found)
        except _FieldError as error:
            path = f"{name}.{error.path}"
            raise _FieldError(path, error.reason) from error
        except InvalidRequestError as error:
            path = f"{name}.{where}"
            raise _FieldError(path, error.message) from error
        return Message(found)

    return read


def _read_tag(cursor: Cursor, tags: Mapping[int, _Field], found: dict[str, Any]) -> None:
    tag, size = cursor.varint(), cursor.varint()
    end = cursor.take(size) + size
    field = tags.get(tag)
    if field is not None:
        inner = Cursor(cursor.data[:end], end - size)
        inner.elements = cursor.elements
        found[field.name] = field.read(inner)
        cursor.elements = inner.elements


def _reader(field: Mapping[str, Any], version: int, *, flexible: bool) -> Callable[[Cursor], Any]:
    kind: str = field["type"]
    nullable = within(version, field.get("nullableVersions"))
    if kind.startswith("[]"):
        element = _of_kind({**field, "type": kind[2:], "nullableVersions": None}, version, flexible=flexible)

        def read_array(cursor: Cursor, count: int) -> list[Any]:
            return [element(cursor) for _ in range(cursor.count(count))]

        return _sized(read_array, _int32, compact=flexible, nullable=nullable)
    return _of_kind(field, version, flexible=flexible)


def _of_kind(field: Mapping[str, Any], version: int, *, flexible: bool) -> Callable[[Cursor], Any]:
    kind: str = field["type"]
    nullable = within(version, field.get("nullableVersions"))
    number = _NUMBERS.get(kind)
    if number is not None:
        return number
    if kind == "string":
        return _sized(_text, _int16, compact=flexible, nullable=nullable)
    if kind in ("bytes", "records"):
        return _sized(_slice, _int32, compact=flexible, nullable=nullable)
    if kind == "uuid":
        return _uuid
    read = _structure(snake_case(field["name"]), field["fields"], version, flexible=flexible)
    if not nullable:
        return read
    return lambda cursor: read(cursor) if _NUMBERS["int8"](cursor) >= 0 else None


def default_of(field: Mapping[str, Any]) -> Any:
    """What a field is in versions that do not have it."""
    kind, default = field["type"], field.get("default")
    if default == "null":
        return None
    if kind.startswith("[]"):
        return []
    if kind in ("string", "bytes", "records"):
        return default or ("" if kind == "string" else b"")
    if kind == "bool":
        return str(default).lower() == "true"
    if kind in _NUMBERS:
        return int(str(default or 0), 0)
    return None
