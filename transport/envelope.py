"""Envelopes: the first frame of every message, one msgpack array; encoded here, decoded here, under limits.

A request is ``[api, version, correlation_id, body]``; a reply is ``[api, version, correlation_id, error_code,
error_message, throttle_time_ms, body]``, with a body of nil if the error code is not 0. Record batches follow as frames
of their own. Decoding is in two steps, so that an answer can be addressed even when the body is malformed: msgpack
builds plain values under limits (no maps, no extension types, bounded lengths), then msgspec checks the body against
its type and names the path of the field that does not fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgpack
import msgspec

from ..errors import BrokerError, InvalidRequestError, UnsupportedVersionError
from .catalogue import REQUESTS
from .message_base import PROTOCOL_VERSION, Body, Int64, Request

if TYPE_CHECKING:
    from collections.abc import Mapping

ERROR_API = -1
"""The API number of a reply to a message whose own API could not be read."""

MAX_ENVELOPE_BYTES = 8 * 1024 * 1024
_MAX_TEXT_BYTES = 1024 * 1024
_MAX_ARRAY_LENGTH = 1024 * 1024

B = TypeVar("B", bound=Body)
R = TypeVar("R", bound=Request)

_encode = msgspec.msgpack.Encoder().encode


class MalformedEnvelopeError(InvalidRequestError):
    """A message that is no request; carries what could be read of its header, so that it can be answered."""

    def __init__(self, message: str, *, api: int = ERROR_API, version: int = 0, correlation_id: int = -1) -> None:
        super().__init__(message)
        self.api = api
        self.version = version
        self.correlation_id = correlation_id


class RawRequest(NamedTuple):
    """A request whose body is not yet checked."""

    api: int
    version: int
    correlation_id: int
    body: Any


class RawReply(NamedTuple):
    """A reply whose body is not yet checked."""

    api: int
    version: int
    correlation_id: int
    error_code: int
    error_message: str | None
    throttle_time_ms: int
    body: Any


class _RequestHeader(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    api: Int64
    version: Int64
    correlation_id: Int64
    body: Any


class _ReplyHeader(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    api: int
    version: int
    correlation_id: int
    error_code: int
    error_message: str | None
    throttle_time_ms: int
    body: Any


def encode_request(request: Request, correlation_id: int, version: int = PROTOCOL_VERSION) -> bytes:
    """The envelope frame of a request, in a version that both sides speak."""
    return _encode((request.API, version, correlation_id, request))


def common_version(cls: type[Request], apis: Mapping[int, tuple[int, int]], who: str) -> int:
    """The newest version of a request that both sides speak, given the ranges that the other one has told by API.

    Raises UnsupportedVersionError, with both ranges.
    """
    lowest, highest = apis.get(cls.API, (0, -1))
    version = min(highest, cls.MAX_VERSION)
    if version < max(lowest, cls.MIN_VERSION):
        theirs = f"versions {lowest} to {highest}" if highest >= lowest else "no version"
        ours = f"versions {cls.MIN_VERSION} to {cls.MAX_VERSION}"
        message = f"{who} speaks {theirs} of {cls.__name__} (API {cls.API}), and this node speaks {ours}"
        raise UnsupportedVersionError(message)
    return version


def encode_reply(api: int, correlation_id: int, body: Body, throttle_time_ms: int = 0) -> bytes:
    """The envelope frame of a reply."""
    return _encode((api, PROTOCOL_VERSION, correlation_id, 0, None, throttle_time_ms, body))


def encode_error(api: int, correlation_id: int, error: BrokerError, throttle_time_ms: int = 0) -> bytes:
    """The envelope frame of a reply that says why the whole request failed."""
    return _encode((api, PROTOCOL_VERSION, correlation_id, error.code, error.message, throttle_time_ms, None))


def _refuse_extension(code: int, _: bytes) -> Any:
    message = f"extension type {code} means nothing here"
    raise ValueError(message)


def _unpack(frame: bytes) -> Any:
    if len(frame) > MAX_ENVELOPE_BYTES:
        message = f"the envelope is {len(frame)} bytes long and at most {MAX_ENVELOPE_BYTES} are read"
        raise MalformedEnvelopeError(message)
    try:
        return msgpack.unpackb(
            frame,
            raw=False,
            max_str_len=_MAX_TEXT_BYTES,
            max_bin_len=_MAX_TEXT_BYTES,
            max_array_len=_MAX_ARRAY_LENGTH,
            max_map_len=0,
            max_ext_len=0,
            ext_hook=_refuse_extension,
        )
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        # msgpack names its errors by class; some (StackError) carry no text.
        reason = str(error) or type(error).__name__
        message = f"the envelope of {len(frame)} bytes is not valid msgpack under this broker's limits: {reason}"
        raise MalformedEnvelopeError(message) from error


def split_request(frame: bytes) -> RawRequest:
    """Read a request's header; its body is checked by `convert_body`.

    Raises MalformedEnvelopeError, which carries the API and correlation id as far as they could be read.
    """
    values = _unpack(frame)
    try:
        header = msgspec.convert(values, _RequestHeader)
    except msgspec.ValidationError as error:
        message = f"an envelope is [api, version, correlation id, body]: {error}"
        raise MalformedEnvelopeError(message, **_readable_header(values)) from error
    cls = REQUESTS.get(header.api, Request)
    if not cls.MIN_VERSION <= header.version <= cls.MAX_VERSION:
        lowest, highest = cls.MIN_VERSION, cls.MAX_VERSION
        spoken = f"version {highest}" if lowest == highest else f"versions {lowest} to {highest}"
        message = f"version {header.version} of API {header.api} is not spoken here; this broker speaks {spoken} of it"
        raise UnsupportedVersionError(message)
    return RawRequest(header.api, header.version, header.correlation_id, header.body)


def readable_header(frame: bytes) -> tuple[int, int]:
    """API and correlation id of a request that `split_request` refused; -1 for what cannot be read."""
    try:
        known = _readable_header(_unpack(frame))
    except MalformedEnvelopeError:
        return ERROR_API, -1
    return known.get("api", ERROR_API), known.get("correlation_id", -1)


def _readable_header(values: Any) -> dict[str, int]:
    """The first three numbers of something that should have been an envelope, where they are numbers at all."""
    if not isinstance(values, list):
        return {}
    limit = 2**63
    names = ("api", "version", "correlation_id")
    return {
        name: value
        for name, value in zip(names, values, strict=False)
        if type(value) is int and -limit <= value < limit  # a bool is no number here
    }


def decode_request(raw: RawRequest) -> Request:
    """The typed body of a request; UnsupportedVersionError for an unknown API, InvalidRequestError for a misfit."""
    cls = REQUESTS.get(raw.api)
    if cls is None:
        message = f"API {raw.api} is not known to this broker"
        raise UnsupportedVersionError(message)
    return convert_body(raw.body, cls)


def split_reply(frame: bytes) -> RawReply:
    """Read a reply's header; its body is checked by `convert_body`. Raises MalformedEnvelopeError."""
    try:
        header = msgspec.convert(_unpack_reply(frame), _ReplyHeader)
    except msgspec.ValidationError as error:
        message = f"the broker's reply has an unexpected shape: {error}"
        raise MalformedEnvelopeError(message) from error
    return RawReply(
        header.api,
        header.version,
        header.correlation_id,
        header.error_code,
        header.error_message,
        header.throttle_time_ms,
        header.body,
    )


def _unpack_reply(frame: bytes) -> Any:
    # A reply may describe ten thousand partitions: it is bounded by the frame's own limit, which the socket holds.
    try:
        return msgpack.unpackb(frame, raw=False, max_map_len=0, max_ext_len=0, ext_hook=_refuse_extension)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        message = f"the broker's reply of {len(frame)} bytes is not valid msgpack: {reason}"
        raise MalformedEnvelopeError(message) from error


def checked(request: R) -> R:
    """Check a request that did not come in an envelope as those are checked that do. Raises InvalidRequestError."""
    return convert_body(msgspec.to_builtins(request, builtin_types=(bytes,)), type(request))


def convert_body(body: Any, cls: type[B]) -> B:
    """Check a decoded body against its type; InvalidRequestError names the field that does not fit."""
    try:
        return msgspec.convert(body, cls)
    except msgspec.ValidationError as error:
        message = f"{cls.__name__}: {error}"
        raise InvalidRequestError(message) from error
