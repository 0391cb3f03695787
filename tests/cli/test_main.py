"""The command line itself: finding verbs, explaining them, exit codes, and how little it loads."""

from __future__ import annotations

import pytest
import zmqbroker
from zmqbroker.cli.common import (
    as_text,
    client_settings,
    natural,
    natural64,
    pairs,
    positive,
    positive64,
    print_table,
    replication_factor,
)
from zmqbroker.cli.main import VERBS, main
from zmqbroker.errors import ConfigError


def test_without_a_verb_it_says_which_there_are(capsys):
    assert main([]) == 2
    told = capsys.readouterr().err
    for verb in VERBS:
        assert " ".join(verb.words) in told


def test_help_is_no_failure(capsys):
    assert main(["--help"]) == 0
    assert "zmqbroker topics create" in capsys.readouterr().out


def test_help_of_a_group_lists_only_its_verbs(capsys):
    assert main(["topics", "--help"]) == 0
    told = capsys.readouterr().out
    assert "topics create" in told
    assert "consume" not in told


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.module)
def test_every_verb_explains_itself(capsys, verb):
    assert main([*verb.words, "--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: zmqbroker {' '.join(verb.words)} ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["frobnicate"], "'frobnicate'"),
        (["topics"], "'topics' needs one more word"),
        (["topics", "frobnicate"], "'topics frobnicate'"),
    ],
)
def test_an_unknown_command_is_a_wrong_call(capsys, words, says):
    assert main(words) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["consume"],
        ["consume", "--topic", ""],
        ["consume", "--topic", "t", "--partition", "-1"],
        ["consume", "--topic", "t", "--offset", "soon"],
        ["consume", "--topic", "t", "--max-messages", "0"],
        ["produce", "--topic", "t", "--acks", "2"],
        ["produce", "--topic", "t", "--compression", "rar"],
        ["topics", "create", "--topic", "t", "--partitions", "many"],
        ["start", "--no-such-flag"],
        ["nodes", "drain", "--node", "999999999999"],
        ["nodes", "drain", "--node", "9" * 5_000],
        ["nodes", "remove", "--node", "2147483648"],
        ["nodes", "upgrade", "--version", "2147483648"],
        ["topics", "reassign", "--topic", "t", "--replication-factor", "999999999999999999999"],
        ["topics", "reassign", "--topic", "t", "--to", "1,2147483648"],
        ["topics", "create", "--topic", "t", "--replication-factor", "32768"],
        ["topics", "create", "--topic", "t", "--partitions", "2147483648"],
        ["consume", "--topic", "t", "--partition", "2147483648"],
        ["consume", "--topic", "t", "--partition", "0", "--offset", "9223372036854775808"],
        ["consume", "--topic", "t", "--request-timeout-ms", "2147483648"],
        ["groups", "reset-offsets", "--group", "g", "--topic", "t", "--to-offset", "9223372036854775808"],
        ["groups", "reset-offsets", "--group", "g", "--topic", "t:2147483648", "--to-latest"],
    ],
    ids=lambda words: " ".join(words)[:80],
)
def test_a_wrong_flag_is_a_wrong_call(capsys, words):
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("usage: ")
    assert "Traceback" not in told


def test_the_largest_numbers_are_taken():
    assert natural(str(2**31 - 1)) == positive(str(2**31 - 1)) == 2**31 - 1
    assert natural64("0" * 50 + str(2**63 - 1)) == positive64(str(2**63 - 1)) == 2**63 - 1
    assert replication_factor(str(2**15 - 1)) == 2**15 - 1
    assert (natural("0"), natural64("000"), positive("01")) == (0, 0, 1)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"zmqbroker {zmqbroker.__version__}\n"


def test_pairs_are_split_at_the_first_equals_sign():
    assert pairs(["a=b=c", " x = y "], "--config") == {"a": "b=c", "x": "y"}
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        pairs(["nothing"], "--config")


def test_properties_take_dots_and_become_what_they_look_like():
    given = ["linger.ms=5", "retry_backoff_ms=0.5", "check.crcs=false", "client.id=me"]
    assert client_settings(given) == {"linger_ms": 5, "retry_backoff_ms": 0.5, "check_crcs": False, "client_id": "me"}


def test_bytes_that_are_no_text_are_shown_in_base64():
    assert as_text("key", b"caf\xc3\xa9") == {"key": "café"}
    assert as_text("key", b"\xff") == {"key_base64": "/w=="}
    assert as_text("key", None) == {"key": None}


def test_tables_are_aligned(capsys):
    print_table(("name", "size"), [("a", 5), ("longer", 12345)])
    assert capsys.readouterr().out == "name     size\na           5\nlonger  12345\n"
