"""What several verbs share: the flags that they have in common, `name=value` pairs, tables and JSON lines."""

from __future__ import annotations

import base64
import json
import sys
from argparse import ArgumentTypeError
from typing import TYPE_CHECKING, Any, cast

from ..errors import ConfigError
from ..setting_values import INT32_MAX, INT64_MAX

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable, Sequence

    from ..client.consumer_settings import ConsumerSettings
    from ..client.producer_settings import ProducerSettings

DEFAULT_SERVER = "127.0.0.1:9292"
DEFAULT_TIMEOUT_MS = 10_000
INT16_MAX = 2**15 - 1
COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")


def add_server(parser: ArgumentParser) -> None:
    """Declare where the broker is, and how long to wait for it."""
    parser.add_argument(
        "--bootstrap-server",
        metavar="HOST:PORT",
        default=DEFAULT_SERVER,
        help=f"any broker of the cluster, or several with commas between (default {DEFAULT_SERVER})",
    )
    parser.add_argument(
        "--request-timeout-ms",
        metavar="MS",
        type=positive,
        default=DEFAULT_TIMEOUT_MS,
        help=f"how long the broker may take to answer (default {DEFAULT_TIMEOUT_MS})",
    )


def add_format(parser: ArgumentParser) -> None:
    """Declare --format."""
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="for people (text, the default) or programs (json)"
    )


def add_producing(parser: ArgumentParser) -> None:
    """Declare what a producer can be told on every command line."""
    parser.add_argument(
        "--acks",
        choices=("0", "1", "-1", "all"),
        default="all",
        help="who must have a record: nobody (0), the leader (1), every in-sync replica (all, the default)",
    )
    parser.add_argument("--compression", choices=COMPRESSIONS, default="none", help="how batches are compressed")
    add_properties(parser, "producer", "linger_ms=5")


def add_properties(parser: ArgumentParser, client: str, example: str) -> None:
    """Declare --property."""
    parser.add_argument(
        "--property",
        metavar="KEY=VALUE",
        dest="properties",
        action="append",
        default=[],
        help=f"a setting of the {client}, for example {example}; may be repeated",
    )


def topic_name(text: str) -> str:
    """Take the name of a topic, for argparse: any, as the broker knows the rules, but some."""
    if not text:
        message = "a topic's name is expected"
        raise ArgumentTypeError(message)
    return text


def positive(text: str) -> int:
    """Read a number from 1 up, for argparse: of what is sent as 32 bits, as nodes, partitions and milliseconds are."""
    return _number(text, 1, INT32_MAX)


def natural(text: str) -> int:
    """Read a number from 0 up, for argparse: of 32 bits."""
    return _number(text, 0, INT32_MAX)


def positive64(text: str) -> int:
    """Read a number from 1 up, for argparse: of 64 bits, as there may be records."""
    return _number(text, 1, INT64_MAX)


def natural64(text: str) -> int:
    """Read a number from 0 up, for argparse: of 64 bits, as offsets are."""
    return _number(text, 0, INT64_MAX)


def replication_factor(text: str) -> int:
    """Read how many replicas there shall be, for argparse."""
    return _number(text, 1, INT16_MAX)


def _number(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal()):
        message = f"{text!r} is not a whole number from {least} up"
        raise ArgumentTypeError(message)
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(most)) or int(digits) > most:
        message = f"{text} is too large; at most {most} is expected"
        raise ArgumentTypeError(message)
    if int(digits) < least:
        message = f"{text} is too small; at least {least} is expected"
        raise ArgumentTypeError(message)
    return int(digits)


def pairs(texts: Iterable[str], flag: str) -> dict[str, str]:
    """Split KEY=VALUE texts. Raises ConfigError for one without a key or `=`."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            message = f"{flag} {text!r}: KEY=VALUE is expected"
            raise ConfigError(message)
        found[name.strip()] = value.strip()
    return found


def client_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Read --property: names with dots or underscores; numbers, true and false become what they look like."""
    return {name.replace(".", "_"): _value(text) for name, text in pairs(texts, "--property").items()}


def producer_settings(args: Namespace) -> ProducerSettings:
    """Gather what `add_server` and `add_producing` have read."""
    given = {"acks": args.acks, "compression_type": args.compression, **client_settings(args.properties)}
    return cast("ProducerSettings", {**given, "bootstrap_servers": args.bootstrap_server})


def consumer_settings(args: Namespace, **defaults: Any) -> ConsumerSettings:
    """Gather what `add_server` and --property have read, over what the verb itself would have."""
    given = {**defaults, "request_timeout_ms": args.request_timeout_ms, **client_settings(args.properties)}
    return cast("ConsumerSettings", {**given, "bootstrap_servers": args.bootstrap_server})


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def print_json(value: object) -> None:
    """Print one JSON document on one line."""
    print(json.dumps(value, separators=(",", ":"), ensure_ascii=False))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns: numbers to the right, the rest to the left. Pipes well: no frames, no colours."""
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max([len(head), *(len(row[at]) for row in texts)]) for at, head in enumerate(heads)]
    right = [bool(rows) and all(isinstance(row[at], int | float) for row in rows) for at in range(len(heads))]
    for line in (list(heads), *texts):
        cells = [
            f"{cell:>{width}}" if to_right else f"{cell:<{width}}"
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]
        print("  ".join(cells).rstrip())


def say(sentence: str) -> None:
    """Tell the person at the terminal, not the program at the other end of the pipe."""
    print(sentence, file=sys.stderr, flush=True)


def as_text(name: str, data: bytes | None) -> dict[str, str | None]:
    """Put bytes into JSON: as text where they are UTF-8, else in base64 under a name that says so."""
    if data is None:
        return {name: None}
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}
