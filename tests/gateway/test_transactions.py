"""Transactions of unmodified Kafka clients: the same jobs through each, and what one commits all others read."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import zmqbroker
from zmqbroker.errors import InvalidProducerEpochError, ProducerFencedError, UnstableOffsetCommitError

from .kafka_clients import CLIENTS
from .kafka_members import DEADLINE_S, MEMBERS, read, unclosed_sockets
from .kafka_transactions import PRODUCERS, FencedError
from .wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zmqbroker.testing import Broker

    from .kafka_clients import Client
    from .kafka_members import Member, Record
    from .kafka_transactions import Transactions

COMMITTED, ALL = "read_committed", "read_uncommitted"
COUNT = 20


def values(word: str, count: int = COUNT) -> list[bytes]:
    return [f"{word}-{number}".encode() for number in range(count)]


def values_of(found: list[Record]) -> list[bytes]:
    return sorted(record.value or b"" for record in found)


@pytest.fixture
def producer_of(broker: Broker, topic: str) -> Iterator[Callable[..., Transactions]]:
    """Make transactional producers, by the name of their client; they are closed when the test is over."""
    made: list[Transactions] = []

    def make(name: str, transactional_id: str = topic, **settings: Any) -> Transactions:
        made.append(PRODUCERS[name](broker.kafka_bootstrap, transactional_id, **settings))
        return made[-1]

    yield make
    for producer in made:
        producer.close()


@pytest.fixture
def member_of(broker: Broker, topic: str) -> Iterator[Callable[..., Member]]:
    """Make consumers that leave their offsets to others, by the name of their client."""
    made: list[Member] = []

    def make(name: str, isolation: str, of: str = topic) -> Member:
        group = f"{of}-{isolation}"
        made.append(MEMBERS[name](broker.kafka_bootstrap, of, group, isolation=isolation, commits=False))
        return made[-1]

    yield make
    for member in made:
        member.close()


# ---- what is read


@pytest.fixture(scope="module")
def written(broker: Broker) -> str:
    """A topic to which every client has written a transaction that it aborted, and one that it committed."""
    topic = "written-by-all"
    for name, kind in PRODUCERS.items():
        with closing(kind(broker.kafka_bootstrap, f"{topic}-{name}")) as producer:
            for word, end in (("aborted", producer.abort), ("committed", producer.commit)):
                producer.begin()
                producer.send(topic, values(f"{name}-{word}"))
                end()
    return topic


def all_written(*words: str) -> list[bytes]:
    return sorted(value for name in PRODUCERS for word in words for value in values(f"{name}-{word}"))


@pytest.mark.parametrize("name", CLIENTS)
def test_what_is_committed_is_read_and_what_is_aborted_is_not(
    name: str, client_of: Callable[[str], Client], written: str, topic: str
) -> None:
    client = client_of(name)
    committed, everything = all_written("committed"), all_written("committed", "aborted")
    assert values_of(client.consume(written, len(committed), f"{topic}-1", isolation=COMMITTED)) == committed
    assert values_of(client.consume(written, len(everything), f"{topic}-2", isolation=ALL)) == everything


def test_our_own_consumer_reads_what_kafkas_clients_committed(broker: Broker, written: str) -> None:
    for isolation, words in ((COMMITTED, ["committed"]), (ALL, ["committed", "aborted"])):
        with zmqbroker.Consumer(
            written,
            bootstrap_servers=broker.bootstrap_servers,
            isolation_level=isolation,
            auto_offset_reset="earliest",
        ) as consumer:
            found: list[bytes] = []
            while len(found) < len(all_written(*words)):
                records = consumer.poll(20_000)
                assert records, f"{len(found)} records were read"
                found += [record.value or b"" for some in records.values() for record in some]
        assert sorted(found) == all_written(*words)


@pytest.mark.parametrize("name", CLIENTS)
def test_kafkas_clients_read_what_our_own_producer_committed(
    name: str, broker: Broker, client_of: Callable[[str], Client], topic: str
) -> None:
    with zmqbroker.Producer(bootstrap_servers=broker.bootstrap_servers, transactional_id=topic) as producer:
        producer.init_transactions()
        for word, end in (("aborted", producer.abort_transaction), ("committed", producer.commit_transaction)):
            producer.begin_transaction()
            for value in values(word):
                producer.send(topic, value)
            producer.flush()
            end()
    found = client_of(name).consume(topic, COUNT, topic, isolation=COMMITTED)
    assert values_of(found) == sorted(values("committed"))


@pytest.mark.parametrize("name", PRODUCERS)
def test_an_open_transaction_is_read_when_it_is_committed_and_holds_up_what_follows_it(
    name: str,
    producer_of: Callable[..., Transactions],
    member_of: Callable[..., Member],
    client_of: Callable[[str], Client],
    topic: str,
) -> None:
    producer = producer_of(name)
    producer.begin()
    producer.send(topic, values("open"))
    client_of(name).produce(topic, values("later"))
    both = sorted(values("open") + values("later"))
    assert values_of(read(member_of(name, ALL), 2 * COUNT)) == both
    reader = member_of(name, COMMITTED)
    seen: list[Record] = []
    while len(reader.owned()) < 2:  # the partitions of the topic
        seen += reader.poll()
    for _ in range(5):
        seen += reader.poll()
    assert seen == []
    producer.commit()
    assert values_of(read(reader, 2 * COUNT)) == both


def test_a_partition_ends_for_who_reads_what_is_committed_where_an_open_transaction_begins(
    broker: Broker, producer_of: Callable[..., Transactions], client_of: Callable[[str], Client], topic: str
) -> None:
    from confluent_kafka import IsolationLevel, TopicPartition
    from confluent_kafka.admin import AdminClient, OffsetSpec

    client_of("confluent-kafka").produce(topic, values("first"))
    producer = producer_of("confluent-kafka")
    producer.begin()
    producer.send(topic, values("open"))
    latest = {TopicPartition(topic, partition): OffsetSpec.latest() for partition in (0, 1)}
    admin = AdminClient({"bootstrap.servers": broker.kafka_bootstrap})
    ends = {}
    for isolation in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
        found = admin.list_offsets(latest, isolation_level=isolation)
        ends[isolation] = sum(future.result(DEADLINE_S).offset for future in found.values())
    assert ends == {IsolationLevel.READ_COMMITTED: COUNT, IsolationLevel.READ_UNCOMMITTED: 2 * COUNT}


# ---- how transactions go


@pytest.mark.parametrize("name", PRODUCERS)
def test_transactions_follow_one_another(
    name: str, producer_of: Callable[..., Transactions], client_of: Callable[[str], Client], topic: str
) -> None:
    producer = producer_of(name)
    for number in range(10):
        producer.begin()
        producer.send(topic, values(f"{number}", 3))
        (producer.abort if number % 3 == 0 else producer.commit)()
        producer.begin()  # one that nothing is written in
        (producer.abort if number % 2 == 0 else producer.commit)()
    wanted = sorted(value for number in range(10) if number % 3 for value in values(f"{number}", 3))
    assert values_of(client_of(name).consume(topic, len(wanted), topic, isolation=COMMITTED)) == wanted


@pytest.mark.parametrize("name", PRODUCERS)
def test_offsets_are_committed_with_what_was_made_of_their_records_or_not_at_all(
    name: str,
    broker: Broker,
    producer_of: Callable[..., Transactions],
    member_of: Callable[..., Member],
    topic: str,
) -> None:
    """Consume, transform, produce: the first attempt is aborted, and all is read and made again."""
    client = CLIENTS[name](broker.kafka_bootstrap)
    source, target = f"{topic}-source", f"{topic}-target"
    client.produce(source, values("word"))
    producer = producer_of(name)
    group = f"{source}-{COMMITTED}"
    for end in (producer.abort, producer.commit):
        member = MEMBERS[name](broker.kafka_bootstrap, source, group, isolation=COMMITTED, commits=False)
        with closing(member):
            found = read(member, COUNT)
            assert values_of(found) == sorted(values("word"))
            producer.begin()
            producer.send(target, [(record.value or b"").upper() for record in found])
            producer.send_offsets(source, ends_of(found), member.group())
            end()
    client.produce(source, [b"the-last"])
    assert values_of(read(member_of(name, COMMITTED, source), 1)) == [b"the-last"]
    made = client.consume(target, COUNT, target, isolation=COMMITTED)
    assert values_of(made) == sorted(value.upper() for value in values("word"))


def ends_of(found: list[Record]) -> dict[int, int]:
    """By partition, the offset behind the last record."""
    ends: dict[int, int] = {}
    for record in found:
        ends[record.partition] = max(ends.get(record.partition, 0), record.offset + 1)
    return ends


@pytest.mark.parametrize("name", PRODUCERS)
def test_a_second_producer_with_the_same_id_fences_the_first(
    name: str, producer_of: Callable[..., Transactions], client_of: Callable[[str], Client], topic: str
) -> None:
    first = producer_of(name)
    first.begin()
    first.send(topic, values("first"))
    second = producer_of(name)
    second.begin()
    second.send(topic, values("second"))
    with pytest.raises(FencedError):
        first.commit()
    second.commit()
    found = client_of(name).consume(topic, COUNT, topic, isolation=COMMITTED)
    assert values_of(found) == sorted(values("second"))


@pytest.mark.parametrize("name", PRODUCERS)
def test_a_transaction_that_is_open_for_too_long_is_aborted_and_its_producer_fenced(
    name: str, producer_of: Callable[..., Transactions], client_of: Callable[[str], Client], topic: str
) -> None:
    slow = producer_of(name, timeout_ms=1_000)
    slow.begin()
    slow.send(topic, values("slow"))
    client_of(name).produce(topic, values("later"))
    found = client_of(name).consume(topic, COUNT, topic, isolation=COMMITTED)
    assert values_of(found) == sorted(values("later"))
    with pytest.raises(FencedError):
        slow.commit()


# ---- versions


@pytest.fixture
def wire(broker: Broker) -> Iterator[Wire]:
    with closing(Wire(broker.kafka_bootstrap)) as found:
        yield found


@pytest.fixture
def given(broker: Broker, wire: Wire, topic: str, eventually: Callable[..., Any]) -> Any:
    """The producer id and epoch of a transactional id that is called as the test's topic, which exists."""
    with zmqbroker.Admin(bootstrap_servers=broker.bootstrap_servers) as admin:
        admin.create_topics([zmqbroker.NewTopic(topic)])
    for version in range(1, 5):
        for kind in (0, 1):
            eventually(lambda of=(kind, version): wire.find(topic, *of).error_code == 0, "the coordinator is found")
    return eventually(lambda: initialized(wire, topic), "the coordinator is there")


def initialized(wire: Wire, transactional_id: str) -> Any:
    """The next producer of a transactional id, if its coordinator can say already."""
    found = wire.init(transactional_id)
    return found if found.error_code == 0 else None


def test_older_clients_are_told_that_they_are_fenced_in_an_older_word(
    wire: Wire, given: Any, topic: str, eventually: Callable[..., Any]
) -> None:
    assert wire.add(topic, given, topic) == 0
    assert wire.end(topic, given) == 0
    eventually(lambda: initialized(wire, topic), "the id has another producer")
    fenced, epoch = ProducerFencedError.code, InvalidProducerEpochError.code
    for version in range(4):
        code = fenced if version >= 2 else epoch
        assert wire.add(topic, given, topic, version) == code, version
        assert wire.add_offsets(topic, given, topic, version) == code, version
        assert wire.end(topic, given, version) == code, version
        assert wire.commit_offset(topic, given, topic, version) == epoch, version
    for version, code in ((3, epoch), (4, fenced)):
        found = wire.init(topic, version, given.producer_id, given.producer_epoch)
        assert (found.error_code, found.producer_id, found.producer_epoch) == (code, -1, -1)


def test_offsets_that_an_open_transaction_may_change_are_no_answer_for_who_wants_stable_ones(
    wire: Wire, given: Any, topic: str, eventually: Callable[..., Any]
) -> None:
    assert wire.add_offsets(topic, given, topic) == 0
    assert wire.commit_offset(topic, given, topic) == 0
    assert wire.committed(topic, 7, stable=True).error_code == UnstableOffsetCommitError.code
    for version, stable in ((7, False), (6, True)):
        found = wire.committed(topic, version, stable=stable)
        assert (found.error_code, found.committed_offset) == (0, -1)
    assert wire.end(topic, given) == 0
    eventually(lambda: wire.committed(topic, 7, stable=True).error_code == 0, "the markers are written")
    assert wire.committed(topic, 7, stable=True).committed_offset == 1


# ---- administration


@unclosed_sockets()
def test_transactions_and_their_producers_are_listed_and_described(
    broker: Broker, producer_of: Callable[..., Transactions], topic: str
) -> None:
    from kafka import KafkaAdminClient, TopicPartition

    producer = producer_of("confluent-kafka", timeout_ms=50_000)
    producer.begin()
    producer.send(topic, values("open"))
    admin = KafkaAdminClient(bootstrap_servers=broker.kafka_bootstrap)
    try:
        (listed,) = [
            each
            for of_broker in admin.list_transactions(state_filters=["Ongoing"]).values()
            for each in of_broker
            if each.transactional_id == topic
        ]
        described = admin.describe_transactions([topic])[topic]
        assert (described.state, described.producer_id) == (listed.state, listed.producer_id)
        assert described.transaction_timeout_ms == 50_000
        partitions = {TopicPartition(topic, 0), TopicPartition(topic, 1)}
        assert described.topic_partitions == partitions
        for found in admin.describe_producers(list(partitions)).values():
            (state,) = found.active_producers
            assert (state.producer_id, state.producer_epoch) == (described.producer_id, described.producer_epoch)
            assert state.current_transaction_start_offset == 0
        assert admin.list_transactions(producer_id_filters=[described.producer_id + 1_000_000]).popitem()[1] == []
        assert topic not in str(admin.list_transactions(duration_filter_ms=600_000))
        producer.commit()
        described = admin.describe_transactions([topic])[topic]
        assert described.state in {"PrepareCommit", "CompleteCommit"}
    finally:
        admin.close()
