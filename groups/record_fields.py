"""The fields of the records of Kafka's internal topics: big-endian numbers, and strings and bytes with lengths."""

from __future__ import annotations

from struct import Struct

STRING_BYTES_MAX = 2**15 - 1

INT8, INT16, INT32, INT64 = Struct(">b"), Struct(">h"), Struct(">i"), Struct(">q")
_NO_STRING = INT16.pack(-1)


def string_field(text: str | None) -> bytes:
    """Encode a string, or none."""
    if text is None:
        return _NO_STRING
    data = text.encode()
    assert len(data) <= STRING_BYTES_MAX, f"a string of {len(data)} bytes does not fit into a record"
    return INT16.pack(len(data)) + data


def bytes_field(data: bytes) -> bytes:
    """Encode bytes."""
    return INT32.pack(len(data)) + data


class FieldReader:
    """Reads one key or value from its start. struct.error or ValueError where it is not what it should be."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self.version = self.int16()

    def _number(self, layout: Struct) -> int:
        value: int = layout.unpack_from(self._data, self._position)[0]
        self._position += layout.size
        return value

    def int8(self) -> int:
        """Read a number of 8 bits."""
        return self._number(INT8)

    def int16(self) -> int:
        """Read a number of 16 bits."""
        return self._number(INT16)

    def int32(self) -> int:
        """Read a number of 32 bits."""
        return self._number(INT32)

    def int64(self) -> int:
        """Read a number of 64 bits."""
        return self._number(INT64)

    def _take(self, length: int) -> bytes:
        end = self._position + length
        if length < 0 or end > len(self._data):
            message = f"{length} bytes are announced at byte {self._position} of {len(self._data)}"
            raise ValueError(message)
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def string(self) -> str:
        """Read a string."""
        return self._take(self.int16()).decode()

    def string_or_none(self) -> str | None:
        """Read a string, or none."""
        length = self.int16()
        return None if length == -1 else self._take(length).decode()

    def bytes(self) -> bytes:
        """Read bytes."""
        return self._take(self.int32())

    def end(self) -> None:
        """Raise ValueError unless all is read."""
        if self._position != len(self._data):
            message = f"{len(self._data) - self._position} bytes are left over"
            raise ValueError(message)
