"""`zmqbroker log dump`: print the batches of a segment or partition folder, without a broker.

A batch whose CRC does not fit is marked as BAD; where not even a header can be read, the dump ends with a sentence and
exit code 1. `zmqbroker log verify` checks more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import CorruptMessageError, ZmqBrokerError
from ..log.inspect import BatchInfo, LogPathError, dump
from ..log.real_disk import RealDisk
from ..log.scan import BadBatchError
from .common import add_format, as_text, print_json

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from ..log.disk import Disk

MAX_DECOMPRESSED_BYTES = 1 << 30


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("path", help="a partition's folder (data/orders-0) or one of its .log files")
    parser.add_argument("--records", action="store_true", help="also the records of each batch")
    add_format(parser)


def run(args: Namespace) -> int:
    """Print one line for each batch, and with --records one for each of its records."""
    disk = RealDisk()
    path = None
    try:
        for batch in dump(disk, args.path.rstrip("/") or "/"):
            if args.format == "text" and batch.path != path:
                path = batch.path
                print(path)
            records = _records(disk, batch) if args.records and batch.crc_valid else iter(())
            if args.format == "json":
                records_field = {"records": list(records)} if args.records else {}
                print_json({**batch._asdict(), **records_field})
            else:
                print(_line(batch))
                for record in records:
                    print("    " + " ".join(f"{name}={value!r}" for name, value in record.items()))
    except LogPathError as error:
        raise ZmqBrokerError(str(error)) from error
    except BadBatchError as error:
        message = f"no batch can be read at position {error.position}: {error.reason}"
        raise CorruptMessageError(message) from error
    return 0


def _line(batch: BatchInfo) -> str:
    parts = [
        f"  {batch.base_offset}..{batch.last_offset}",
        f"position={batch.position}",
        f"bytes={batch.size}",
        f"records={batch.records_count}",
        f"epoch={batch.leader_epoch}",
        f"compression={batch.compression}",
        f"time={batch.max_timestamp}",
    ]
    if batch.producer_id >= 0:
        parts.append(f"producer={batch.producer_id}/{batch.producer_epoch}")
        parts.append(f"sequence={batch.base_sequence}..{batch.last_sequence}")
    parts += ["control"] * batch.is_control + ["transactional"] * batch.is_transactional
    parts.append("crc=ok" if batch.crc_valid else "crc=BAD")
    return " ".join(parts)


def _records(disk: Disk, batch: BatchInfo) -> Iterator[dict[str, Any]]:
    from ..log.records import decode_batch  # noqa: PLC0415 - 200 ms for the codec, only where records are asked for

    file = disk.open(batch.path)
    try:
        data = file.read(batch.position, batch.size)
    finally:
        file.close()
    for record in decode_batch(data, max_decompressed_bytes=MAX_DECOMPRESSED_BYTES):
        yield {
            "offset": record.offset,
            "timestamp": record.timestamp,
            **as_text("key", record.key),
            **as_text("value", record.value),
            "headers": [{"name": name, **as_text("value", value)} for name, value in record.headers],
        }
