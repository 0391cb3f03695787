"""Fetch sessions (KIP-227): what a client is told, and what it has been told by then, is what there is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zmqbroker.errors import FetchSessionIdNotFoundError, InvalidFetchSessionEpochError
from zmqbroker.gateway.fetch_session import FINAL_EPOCH, INITIAL_EPOCH, NO_SESSION, FetchSession
from zmqbroker.transport.messages import AbortedTransaction, PartitionFetch, PartitionFetched

ID = 77
KEYS = [("t", 0), ("t", 1), ("u", 0), ("v", 5)]


def wants(*keys: tuple[str, int], offset: int = 0) -> list[PartitionFetch]:
    return [PartitionFetch(topic, partition, offset, 1000) for topic, partition in keys]


def states(entries: list[PartitionFetch], mark: int = 0, error: int = 0) -> list[PartitionFetched]:
    return [PartitionFetched(entry.topic, entry.partition, error, None, mark, mark, 0) for entry in entries]


def keys_of(found: list[PartitionFetch]) -> list[tuple[str, int]]:
    return [(entry.topic, entry.partition) for entry in found]


def begun(*keys: tuple[str, int]) -> FetchSession:
    session = FetchSession(ID)
    entries = session.ask(NO_SESSION, INITIAL_EPOCH, wants(*keys), [])
    session.news(states(entries), [b""] * len(entries), is_first=True)
    return session


def test_a_fetch_without_a_session_has_all_partitions_each_time() -> None:
    session = FetchSession(ID)
    for _ in range(2):
        entries = session.ask(NO_SESSION, FINAL_EPOCH, wants(*KEYS), [])
        assert keys_of(entries) == KEYS
        assert len(session.news(states(entries), [b""] * 4, is_first=True)) == 4
        assert session.session_id() == NO_SESSION


def test_a_session_tells_only_what_is_new() -> None:
    session = begun(*KEYS)
    assert session.session_id() == ID
    entries = session.ask(ID, 1, [], [])
    assert keys_of(entries) == KEYS
    assert session.news(states(entries), [b""] * 4, is_first=False) == []
    entries = session.ask(ID, 2, [], [])
    found = states(entries)
    found[2].high_watermark = 5
    assert session.news(found, [b"", b"batch", b"", b""], is_first=False) == [(found[1], b"batch"), (found[2], b"")]


def test_what_became_stable_is_told_and_aborted_transactions_with_their_records() -> None:
    session = begun(*KEYS[:2])
    entries = session.ask(ID, 1, [], [])
    found = states(entries)
    found[0].last_stable_offset = -1
    found[1].aborted = [AbortedTransaction(7, 0)]
    assert session.news(found, [b"", b"batch"], is_first=False) == [(found[0], b""), (found[1], b"batch")]
    entries = session.ask(ID, 2, [], [])
    assert session.news(states(entries), [b"", b""], is_first=False) == [(states(wants(KEYS[0]))[0], b"")]


def test_an_error_is_told_until_it_is_gone_and_its_end_too() -> None:
    session = begun(KEYS[0])
    for epoch, error, told in ((1, 6, 1), (2, 6, 1), (3, 0, 1), (4, 0, 0)):
        entries = session.ask(ID, epoch, [], [])
        assert len(session.news(states(entries, error=error), [b""], is_first=False)) == told


def test_partitions_that_brought_records_go_behind_the_others() -> None:
    session = begun(*KEYS[:3])
    entries = session.ask(ID, 1, [], [])
    session.news(states(entries), [b"batch", b"", b""], is_first=False)
    assert keys_of(session.ask(ID, 2, [], [])) == [KEYS[1], KEYS[2], KEYS[0]]


def test_sessions_that_are_not_known_and_requests_that_were_lost_are_refused() -> None:
    with pytest.raises(FetchSessionIdNotFoundError, match="no fetch session 5"):
        FetchSession(ID).ask(5, 1, [], [])
    session = begun(*KEYS)
    with pytest.raises(FetchSessionIdNotFoundError):
        session.ask(ID + 1, 1, [], [])
    with pytest.raises(InvalidFetchSessionEpochError, match="expects epoch 1, and the request has 2"):
        session.ask(ID, 2, [], [])
    assert keys_of(session.ask(ID, 1, [], [])) == KEYS, "what was refused has changed nothing"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_client_that_believes_what_it_is_told_knows_how_things_are(data: st.DataObject) -> None:
    """The marks that a client has heard, partition by partition, are those of the partitions that it fetches."""
    session = FetchSession(ID)
    epoch = INITIAL_EPOCH
    wanted: dict[tuple[str, int], int] = {}
    marks = dict.fromkeys(KEYS, 0)
    heard: dict[tuple[str, int], int] = {}
    for _ in range(data.draw(st.integers(1, 12))):
        for key in KEYS:
            marks[key] += data.draw(st.integers(0, 1))
        if epoch != INITIAL_EPOCH and data.draw(st.integers(0, 9)) == 0:
            epoch = INITIAL_EPOCH
        changed = dict.fromkeys(data.draw(st.lists(st.sampled_from(KEYS))), data.draw(st.integers(0, 9)))
        forgotten = [key for key in wanted if key not in changed and data.draw(st.booleans())]
        if epoch == INITIAL_EPOCH:
            wanted, forgotten, heard = changed, [], {}
        else:
            wanted = {key: offset for key, offset in {**wanted, **changed}.items() if key not in forgotten}
            heard = {key: mark for key, mark in heard.items() if key not in forgotten}
        named = [entry for key, offset in changed.items() for entry in wants(key, offset=offset)]
        entries = session.ask(ID if epoch else NO_SESSION, epoch, named, forgotten)
        assert {(entry.topic, entry.partition): entry.fetch_offset for entry in entries} == wanted
        found = [state for entry in entries for state in states([entry], mark=marks[entry.topic, entry.partition])]
        for state, _ in session.news(found, [b""] * len(found), is_first=epoch == INITIAL_EPOCH):
            heard[state.topic, state.partition] = state.high_watermark
        assert heard == {key: marks[key] for key in wanted}
        epoch += 1
