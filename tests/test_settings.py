"""The settings: units, bounds, names, files, sources, and what is said when something is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqbroker import settings
from zmqbroker.errors import ConfigError
from zmqbroker.settings import BrokerConfig, TopicConfig, load_broker_config, parse_setting


def test_defaults_are_kafkas():
    topic = TopicConfig()
    assert topic.segment_bytes == 2**30
    assert topic.max_message_bytes == 1_048_588
    assert topic.retention_ms == 604_800_000
    assert topic.message_timestamp_before_max_ms == 2**63 - 1
    assert BrokerConfig().topic_defaults == topic


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("segment.bytes", "64MiB", 64 * 2**20),
        ("segment_bytes", "64 mib", 64 * 2**20),
        ("segment.bytes", "1GB", 10**9),
        ("segment.bytes", "1.5KiB", 1536),
        ("segment.bytes", "1_000_000", 10**6),
        ("segment.bytes", "100B", 100),
        ("log.segment.bytes", "1kB", 1000),
        ("retention.ms", "500ms", 500),
        ("retention.ms", "1.5h", 5_400_000),
        ("retention.ms", "7d", 604_800_000),
        ("retention.ms", "-1", -1),
        ("retention.ms", "9223372036854775807", 2**63 - 1),
        ("quota.producer.default", "10MB/s", 10**7),
        ("quota.producer.default", "10MB", 10**7),
        ("default.replication.factor", "-1", -1),
        ("auto.create.topics.enable", "False", False),
        ("cleanup.policy", "delete,compact", "compact,delete"),
        ("cleanup.policy", " Compact ", "compact"),
        ("message.timestamp.type", "logappendtime", "LogAppendTime"),
        ("log_level", "debug", "DEBUG"),
        ("listen", "tcp://[::1]:0", "tcp://[::1]:0"),
        ("rack", "here", "here"),
        ("data_dir", "/data", "/data"),
    ],
)
def test_values_with_units(name, text, value):
    assert parse_setting(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("segment.bytes", "64MeB", ["segment.bytes", "'64MeB'", "'MeB'", "MiB"]),
        ("segment.bytes", "7d", ["'d'", "MiB"]),
        ("retention.ms", "64MiB", ["retention.ms", "'MiB'", "min"]),
        ("num.partitions", "3ms", ["num.partitions", "plain number"]),
        ("num.partitions", "0", ["num.partitions is 0", "least allowed, 1"]),
        ("num.partitions", "2147483648", ["most allowed, 2147483647"]),
        ("segment.bytes", "3GB", ["3000000000 bytes", "2147483647 bytes"]),
        ("segment.bytes", "", ["segment.bytes", "no number"]),
        ("segment.bytes", "1e6", ["segment.bytes", "'1e6'"]),
        ("segment.bytes", "NaN", ["'NaN'", "no number"]),
        ("retention.ms", "0.0001s", ["whole number of ms"]),
        ("default.replication.factor", "0", ["default.replication.factor is 0"]),
        ("auto.create.topics.enable", "yes", ["'yes'", "true or false"]),
        ("flush", "never", ["'never'", "ack, interval, os"]),
        ("cleanup.policy", "shrink", ["'shrink'", "compact"]),
        ("listen", "127.0.0.1:9292", ["tcp://HOST:PORT"]),
        ("listen", "tcp://host:70000", ["65535"]),
        ("log.dir", "a\0b", ["log.dir", "text"]),
        ("log.segmnt.bytes", "1", ["'log.segmnt.bytes'", "nearest", "log.segment.bytes"]),
    ],
)
def test_what_is_wrong_is_said(name, text, parts):
    with pytest.raises(ConfigError) as caught:
        parse_setting(name, text)
    for part in parts:
        assert part in caught.value.message


def test_a_topics_name_given_to_a_broker_is_told_the_brokers_name():
    with pytest.raises(ConfigError, match=r"default for it is log\.segment\.bytes"):
        load_broker_config(None, ["segment.bytes=1MiB"])


@pytest.mark.parametrize("values", [{"num_partitions": 0}, {"num_partitions": True}, {"node_id": "1"}, {"rack": 5}])
def test_values_given_in_code_are_held_to_the_same_table(values):
    with pytest.raises(ConfigError, match=next(iter(values)).replace("_", ".")):
        BrokerConfig(**values)


def test_pairs_win_over_the_file(tmp_path):
    file = tmp_path / "broker.toml"
    file.write_text(
        'node.id = 7\nmessage_max_bytes = "2MiB"\nauto.create.topics.enable = false\n'
        '[log]\nsegment.bytes = "64MiB"\ncleanup.policy = ["compact", "delete"]\n'
    )
    config = load_broker_config(str(file), ["log_segment_bytes=32MiB", "rack = attic"])
    assert (config.node_id, config.rack, config.auto_create_topics_enable) == (7, "attic", False)
    assert config.topic_defaults.segment_bytes == 32 * 2**20
    assert config.topic_defaults.max_message_bytes == 2 * 2**20
    assert config.topic_defaults.cleanup_policy == "compact,delete"


def test_names_of_which_one_begins_another_can_stand_in_one_file(tmp_path):
    file = tmp_path / "broker.toml"
    file.write_text('log.flush = "interval"\nlog.flush.interval.ms = 5\n')
    with pytest.raises(ConfigError, match=r"broker\.toml is not valid TOML"):
        load_broker_config(str(file), [])
    file.write_text('log.flush = "interval"\nlog_flush_interval_ms = 5\n')
    topic = load_broker_config(str(file), []).topic_defaults
    assert (topic.flush, topic.flush_ms) == ("interval", 5)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"= 1", "not valid TOML"),
        (b"\xff", "not valid TOML"),
        (b"segmet = 1", "nearest known"),
        (b"[log.segment]\nbytes = 1.5", "whole number"),
        (b"num.partitions = true", "whole number"),
        (b"num.partitions = [1]", "whole number"),
        (b"num.partitions = 1979-05-27", "whole number"),
        (b"rack = 1", "text"),
        (b"num_partitions = 1\nnum.partitions = 2", "twice"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, content, said):
    file = tmp_path / "broker.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load_broker_config(str(file), [])


def test_a_missing_file_and_a_pair_without_value_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read: No such file"):
        load_broker_config(str(tmp_path / "absent.toml"), [])
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        load_broker_config(None, ["num.partitions"])
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        load_broker_config(None, ["=3"])


def test_a_topic_overrides_the_brokers_default():
    config = load_broker_config(None, ["log.segment.bytes=1MiB", "log.retention.ms=1d"])
    topic = config.topic_config({"segment.bytes": "2MiB"})
    assert (topic.segment_bytes, topic.retention_ms) == (2 * 2**20, 86_400_000)
    with pytest.raises(ConfigError, match=r"segment\.byte.*nearest known one is segment\.bytes"):
        config.topic_config({"segment.byte": "1"})


def test_overrides_are_stored_under_kafkas_names():
    given_overrides = {"segment_bytes": "2MiB", "unclean.leader.election.enable": "TRUE", "cleanup.policy": "Delete"}
    assert settings.normalised_overrides(given_overrides) == {
        "segment.bytes": "2097152",
        "unclean.leader.election.enable": "true",
        "cleanup.policy": "delete",
    }


def test_entries_say_where_values_come_from():
    config = load_broker_config(None, ["log.retention.ms=7d", "num.partitions=3"])
    broker = {entry.setting.name: (entry.value, entry.source) for entry in settings.broker_entries(config)}
    assert broker["num.partitions"] == (3, "broker")
    assert broker["log.retention.ms"] == (604_800_000, "broker")
    assert broker["log.segment.bytes"] == (2**30, "default")
    topic = {
        entry.setting.name: (entry.value, entry.source)
        for entry in settings.topic_entries(config, {"segment_bytes": "1GiB"})
    }
    assert topic["segment.bytes"] == (2**30, "topic")
    assert topic["retention.ms"] == (604_800_000, "broker")
    assert topic["flush"] == ("ack", "default")


def test_every_setting_is_documented_once():
    text = settings.settings_markdown()
    for setting in (*settings.BROKER_SETTINGS, *settings.TOPIC_SETTINGS):
        assert f"| `{setting.name}` |" in text
        assert setting.doc.endswith(".")
        assert settings.parse_setting(setting.name, settings.value_text(setting.default)) == setting.default
    names = [entry.setting.name for entry in settings.broker_entries(BrokerConfig())]
    assert len(names) == len(set(names))


@given(st.sampled_from([s.name for s in (*settings.BROKER_SETTINGS, *settings.TOPIC_SETTINGS)]), st.text(max_size=12))
def test_any_text_is_a_value_or_a_config_error(name, text):
    try:
        value = parse_setting(name, text)
    except ConfigError as error:
        assert name in error.message  # noqa: PT017 - either outcome is right, and both are looked at
    else:
        assert parse_setting(name, settings.value_text(value)) == value
