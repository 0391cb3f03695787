"""The state machine of a share partition, rule by rule."""

from __future__ import annotations

from typing import Any

import pytest
from zmqbroker.errors import CorruptMessageError, InvalidRecordStateError
from zmqbroker.groups.share_partition import Rules, SharePartition
from zmqbroker.groups.share_ranges import ACQUIRED, ARCHIVING, STATE_NAMES
from zmqbroker.groups.share_records import (
    GroupKey,
    GroupState,
    PartitionKey,
    Snapshot,
    Update,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
)
from zmqbroker.transport.share_messages import (
    ACK_ACCEPT,
    ACK_GAP,
    ACK_REJECT,
    ACK_RELEASE,
    ACK_RENEW,
    ACK_RETURN,
    Acknowledgement,
)

RULES = Rules(lease_ms=1000, count_limit=3, backoff_ms=100, backoff_max_ms=300)
WALL = 1_000_000


def leased(last: int = 9, member: str = "m") -> SharePartition:
    """A partition whose records 0 to last are leased to a member at time 0."""
    machine = SharePartition(0)
    machine.add_fresh(last)
    machine.acquire(member, 0, last, 0, RULES)
    return machine


def ack(machine: SharePartition, *acks: tuple[Any, ...], member: str = "m", now: float = 0) -> None:
    machine.acknowledge(member, [Acknowledgement(*entry) for entry in acks], now, WALL, RULES)


def states(machine: SharePartition) -> list[tuple[int, int, str, int]]:
    return [(found.first, found.last, STATE_NAMES[found.state], found.deliveries) for found in machine.ranges]


def test_what_is_said_of_an_earlier_lease_does_not_count_for_a_later_one() -> None:
    """Not even for the same member: it has the record twice, and would be done with it before the second delivery."""
    machine = SharePartition(0)
    machine.add_fresh(0)
    machine.acquire("m", 0, 0, 0, RULES, lease=7)
    machine.expire(RULES.lease_ms, RULES)
    machine.acquire("m", 0, 0, RULES.lease_ms, RULES, lease=8)
    old, new = (Acknowledgement(0, 0, ACK_ACCEPT, lease=lease) for lease in (7, 8))
    with pytest.raises(InvalidRecordStateError, match="leased to member 'm' anew"):
        machine.acknowledge("m", [old], RULES.lease_ms, WALL, RULES)
    assert states(machine) == [(0, 0, "acquired", 2)]
    machine.acknowledge("m", [new], RULES.lease_ms, WALL, RULES)
    assert machine.start_offset == 1


def test_a_finished_prefix_moves_the_start() -> None:
    machine = leased()
    ack(machine, (2, 3, ACK_ACCEPT))
    assert (machine.start_offset, machine.next_offset) == (0, 10)
    ack(machine, (0, 1, ACK_ACCEPT), (4, 4, ACK_GAP))
    assert machine.start_offset == 5
    ack(machine, (5, 9, ACK_ACCEPT))
    assert (machine.start_offset, len(machine.ranges)) == (10, 0)


def test_neighbours_that_are_alike_are_one_range() -> None:
    machine = SharePartition(0)
    for batch in range(100):
        machine.add_fresh(batch * 10 + 9)
        machine.acquire("m", batch * 10, batch * 10 + 9, 0, RULES)
    assert states(machine) == [(0, 999, "acquired", 1)]
    for offset in range(1, 1000):
        ack(machine, (offset, offset, ACK_ACCEPT))
    assert states(machine) == [(0, 0, "acquired", 1), (1, 999, "acknowledged", 0)]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ((0, 2, ACK_ACCEPT), "offset 0 is finished: everything below 2 is"),
        ((4, 4, ACK_ACCEPT), "offset 4 is acknowledged, not leased to member 'm'"),
        ((6, 6, ACK_ACCEPT), "offset 6 is leased to member 'other', not to 'm'"),
        ((5, 7, ACK_ACCEPT), "offset 6 is leased"),
        ((8, 10, ACK_ACCEPT), "offset 10 was never delivered"),
        ((8, 8, ACK_RENEW), "offset 8 is available"),
    ],
)
def test_a_wrong_acknowledgement_changes_nothing(entry: tuple[int, int, int], message: str) -> None:
    machine = leased()
    ack(machine, (0, 1, ACK_ACCEPT), (4, 4, ACK_ACCEPT), (6, 6, ACK_RETURN), (8, 8, ACK_RETURN))
    machine.acquire("other", 6, 6, 0, RULES)
    before = states(machine)
    with pytest.raises(InvalidRecordStateError, match=message):
        ack(machine, *([(3, 3, ACK_ACCEPT)] if entry[0] > 3 else []), entry)
    assert states(machine) == before


def test_acknowledgements_have_to_be_in_order() -> None:
    machine = leased()
    with pytest.raises(InvalidRecordStateError, match="none twice"):
        ack(machine, (3, 4, ACK_ACCEPT), (4, 5, ACK_ACCEPT))


def test_a_lease_ends_renewed_or_not() -> None:
    machine = leased()
    ack(machine, (0, 4, ACK_RENEW), now=500)
    assert machine.next_lease_end() == 1000
    assert machine.expire(1000, RULES) == 5
    assert states(machine) == [(0, 4, "acquired", 1), (5, 9, "available", 1)]
    assert machine.next_lease_end() == 1500


def test_release_waits_longer_each_time_and_ends_at_the_limit() -> None:
    machine = leased(0)
    for delay_ms in (100, 200):
        ack(machine, (0, 0, ACK_RELEASE))
        assert machine.next_delay_end() == WALL + delay_ms
        assert machine.next_available(WALL + delay_ms - 1, RULES) is None
        assert machine.next_available(WALL + delay_ms, RULES) is not None
        machine.acquire("m", 0, 0, 0, RULES)
    ack(machine, (0, 0, ACK_RELEASE, -1, "busy"))
    found = machine.next_archiving()
    assert found is not None
    assert found.reason == "delivered 3 times, which is the limit of 3: busy"
    machine.archive(0, 0)
    assert machine.start_offset == 1


def test_a_returned_delivery_does_not_count() -> None:
    machine = leased(0)
    for _ in range(10):
        ack(machine, (0, 0, ACK_RETURN))
        assert machine.acquire("m", 0, 0, 0, RULES) == 1


def test_a_member_that_leaves_releases_its_own() -> None:
    machine = leased()
    ack(machine, (4, 5, ACK_RETURN))
    machine.acquire("other", 4, 5, 0, RULES)
    machine.release_all("m", RULES)
    assert states(machine) == [(0, 3, "available", 1), (4, 5, "acquired", 1), (6, 9, "available", 1)]
    assert (machine.leased_to("m"), machine.leased_to("other")) == (0, 2)


def test_the_lowest_available_range_comes_first() -> None:
    machine = leased()
    ack(machine, (7, 7, ACK_RETURN), (8, 8, ACK_RELEASE, 0))
    ack(machine, (2, 3, ACK_RETURN))
    found = machine.next_available(WALL, RULES)
    assert found is not None
    assert (found.first, found.last) == (2, 3)


def test_a_log_that_begins_later_takes_what_is_not_leased() -> None:
    machine = leased()
    ack(machine, (0, 4, ACK_RETURN))
    machine.skip_to(7)
    assert (machine.start_offset, states(machine)) == (5, [(5, 9, "acquired", 1)])
    machine.skip_to(20)
    assert machine.next_offset == 20


def test_after_a_restart_what_had_all_its_deliveries_is_given_up() -> None:
    machine = leased()
    for _ in range(2):
        machine.expire(1e9, RULES)
        machine.acquire("m", 0, 9, 0, RULES)
    again = SharePartition(0)
    for part in machine.take_snapshot():
        again.replay(part)
    assert again.next_available(WALL, RULES) is None
    assert again.ranges.at(0).state == ARCHIVING
    assert machine.ranges.at(0).state == ACQUIRED


def test_a_large_snapshot_has_parts_that_count_only_together() -> None:
    machine = leased(59_999)
    ack(machine, *[(offset, offset, ACK_ACCEPT) for offset in range(1, 60_000, 2)])
    assert machine.take_update() is None
    parts = machine.take_snapshot()
    assert len(parts) > 1
    again = SharePartition(0)
    for part in parts[:-1]:
        again.replay(part)
    assert again.next_offset == 0
    for part in parts:
        again.replay(part)
    assert again.ranges.sizes[3] == 30_000
    assert again.next_offset == 60_000


def test_records_come_back_as_they_were_written() -> None:
    for key in (GroupKey("g"), PartitionKey("g", "t", "id", 3)):
        assert decode_key(encode_key(key)) == key
    for value in (GroupState(5), Update(1, 9, [(1, 2, 0, 1, 5, "")]), Snapshot(0, 1, 0, 0, [])):
        assert decode_value(encode_value(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        encode_value(Update(5, 4, [])),
        encode_value(Update(0, 4, [(0, 4, 0, 0, 0, "")])),
        encode_value(Update(0, 4, [(2, 1, 0, 0, 0, "")])),
        encode_value(Update(0, 4, [(0, 1, 9, 0, 0, "")])),
        encode_value(Snapshot(1, 1, 0, 0, [])),
    ],
)
def test_a_malformed_record_is_an_error(data: bytes) -> None:
    with pytest.raises(CorruptMessageError):
        decode_value(data)


@pytest.mark.parametrize("data", [b"", b"\x90", encode_value(GroupState(1)), b"\x92\xa1g\xa1t"])
def test_a_malformed_key_is_an_error(data: bytes) -> None:
    with pytest.raises(CorruptMessageError):
        decode_key(data)


def test_an_update_that_goes_back_is_an_error() -> None:
    machine = SharePartition(5)
    with pytest.raises(CorruptMessageError, match="before 5 and 5"):
        machine.replay(Update(4, 9, []))


def test_a_reject_says_why() -> None:
    machine = leased(0)
    ack(machine, (0, 0, ACK_REJECT, -1, "bad input"))
    found = machine.next_archiving()
    assert found is not None
    assert found.reason == "bad input"


def test_a_log_that_lost_its_end_takes_the_state_back() -> None:
    machine = leased()
    ack(machine, (0, 1, ACK_ACCEPT), (4, 4, ACK_ACCEPT))
    cut = machine.cut_to(6)
    assert (cut.start_offset, cut.next_offset) == (2, 6)
    assert states(cut) == [(2, 3, "available", 1), (4, 4, "acknowledged", 0), (5, 5, "available", 1)]
    assert machine.cut_to(1).next_offset == 1
