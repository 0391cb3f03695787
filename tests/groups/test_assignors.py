"""The assignors: Kafka's own results for range and roundrobin, and what must hold for any group."""

from __future__ import annotations

from collections import Counter
from itertools import product
from time import perf_counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from zmqbroker.groups.assignors import ASSIGNORS, COOPERATIVE_STICKY, RANGE, ROUND_ROBIN, STICKY, in_order
from zmqbroker.groups.consumer_protocol import Subscription, encode_sticky_data

STICKY_ONES = [STICKY, COOPERATIVE_STICKY]


def member(*topics, **fields):
    return Subscription(topics, **fields)


def of(topic, *partitions):
    return [(topic, partition) for partition in partitions]


# ---- range, as in Kafka's RangeAssignorTest


@pytest.mark.parametrize(
    ("members", "partitions", "expected"),
    [
        ({"c": member("t")}, {}, {"c": []}),
        ({"c": member()}, {"t": 3}, {"c": []}),
        ({"c": member("t")}, {"t": 3, "other": 3}, {"c": of("t", 0, 1, 2)}),
        ({"c": member("t1", "t2")}, {"t1": 1, "t2": 2}, {"c": [*of("t1", 0), *of("t2", 0, 1)]}),
        ({"c1": member("t"), "c2": member("t")}, {"t": 1}, {"c1": of("t", 0), "c2": []}),
        ({"c1": member("t"), "c2": member("t")}, {"t": 2}, {"c1": of("t", 0), "c2": of("t", 1)}),
        (
            {"c1": member("t1"), "c2": member("t1", "t2"), "c3": member("t1")},
            {"t1": 3, "t2": 2},
            {"c1": of("t1", 0), "c2": [*of("t1", 1), *of("t2", 0, 1)], "c3": of("t1", 2)},
        ),
        (
            {"c1": member("t1", "t2"), "c2": member("t1", "t2")},
            {"t1": 3, "t2": 3},
            {"c1": [*of("t1", 0, 1), *of("t2", 0, 1)], "c2": [*of("t1", 2), *of("t2", 2)]},
        ),
        (
            {"c1": member("t1", group_instance_id="i3"), "c2": member("t1", group_instance_id="i2"), "a": member("t1")},
            {"t1": 4},
            {"c2": of("t1", 0, 1), "c1": of("t1", 2), "a": of("t1", 3)},
        ),
    ],
)
def test_range_is_kafkas(members, partitions, expected):
    assert RANGE.assign(members, partitions) == expected


def test_range_gives_the_same_partitions_of_topics_that_are_alike():
    shares = RANGE.assign({f"c{n}": member("a", "b") for n in range(3)}, {"a": 8, "b": 8})
    for share in shares.values():
        assert [n for topic, n in share if topic == "a"] == [n for topic, n in share if topic == "b"]


# ---- roundrobin, as in Kafka's RoundRobinAssignorTest


@pytest.mark.parametrize(
    ("members", "partitions", "expected"),
    [
        ({"c": member("t")}, {}, {"c": []}),
        ({"c1": member("t"), "c2": member("t")}, {"t": 1}, {"c1": of("t", 0), "c2": []}),
        (
            {"c1": member("t1"), "c2": member("t1", "t2"), "c3": member("t1")},
            {"t1": 3, "t2": 2},
            {"c1": of("t1", 0), "c2": [*of("t1", 1), *of("t2", 0, 1)], "c3": of("t1", 2)},
        ),
        (
            {"c1": member("t1", "t2"), "c2": member("t1", "t2")},
            {"t1": 3, "t2": 3},
            {"c1": [*of("t1", 0, 2), *of("t2", 1)], "c2": [*of("t1", 1), *of("t2", 0, 2)]},
        ),
        (
            {"c1": member("t1"), "c2": member("t1", "t2"), "c3": member("t1", "t2", "t3")},
            {"t1": 1, "t2": 2, "t3": 3},
            {"c1": of("t1", 0), "c2": of("t2", 0), "c3": [*of("t2", 1), *of("t3", 0, 1, 2)]},
        ),
        (
            {"b": member("t", group_instance_id="i1"), "a": member("t", group_instance_id="i2")},
            {"t": 3},
            {"b": of("t", 0, 2), "a": of("t", 1)},
        ),
    ],
)
def test_roundrobin_is_kafkas(members, partitions, expected):
    assert ROUND_ROBIN.assign(members, partitions) == expected


# ---- any of them, any group

TOPICS = ("a", "b", "c", "d")
counts = st.fixed_dictionaries({topic: st.integers(0, 8) for topic in TOPICS})
groups = st.dictionaries(
    st.text("xyz", min_size=1, max_size=3),
    st.builds(
        Subscription,
        st.lists(st.sampled_from(TOPICS)).map(tuple),
        owned=st.lists(st.tuples(st.sampled_from([*TOPICS, "gone"]), st.integers(0, 9)), max_size=12).map(tuple),
        generation=st.integers(-1, 2),
    ),
    max_size=6,
)


def expected_partitions(members, partitions):
    wanted = {topic for subscription in members.values() for topic in subscription.topics}
    return {(topic, n) for topic in wanted for n in range(partitions.get(topic, 0))}


def rejoined(members, shares, generation):
    """The members as they join the next rebalance: with what they were given."""
    return {who: members[who]._replace(owned=tuple(share), generation=generation) for who, share in shares.items()}


@settings(deadline=None)
@given(groups, counts, st.sampled_from([RANGE, ROUND_ROBIN, STICKY]))
def test_each_partition_goes_to_one_subscriber(members, partitions, assignor):
    shares = assignor.assign(members, partitions)
    given_out = [partition for share in shares.values() for partition in share]
    assert sorted(given_out) == sorted(expected_partitions(members, partitions))
    assert shares.keys() == members.keys()
    assert all(topic in members[who].topics for who, share in shares.items() for topic, _ in share)
    assert all(share == sorted(share) for share in shares.values())


@settings(deadline=None)
@given(groups, counts, st.sampled_from(list(ASSIGNORS.values())), st.randoms())
def test_the_order_of_the_members_does_not_matter(members, partitions, assignor, random):
    names = list(members)
    random.shuffle(names)
    shuffled = {name: members[name] for name in names}
    assert assignor.assign(shuffled, partitions) == assignor.assign(members, partitions)


@settings(deadline=None)
@given(groups, counts)
def test_cooperative_gives_nobody_what_somebody_else_has(members, partitions):
    shares = COOPERATIVE_STICKY.assign(members, partitions)
    given_out = [partition for share in shares.values() for partition in share]
    assert len(set(given_out)) == len(given_out)
    for who, share in shares.items():
        for partition in share:
            claims = {m.generation: name for name, m in members.items() if partition in m.owned}
            if partition in members[who].owned:
                assert max(claims) == members[who].generation
            else:
                assert not claims


@settings(deadline=None)
@given(groups, counts)
def test_cooperative_is_complete_after_one_more_round_and_ends_as_sticky(members, partitions):
    shares = COOPERATIVE_STICKY.assign(members, partitions)
    again = COOPERATIVE_STICKY.assign(rejoined(members, shares, 5), partitions)
    assert {p for share in again.values() for p in share} == expected_partitions(members, partitions)
    for who, share in shares.items():
        assert set(share) <= set(again[who])
    eager = STICKY.assign(members, partitions)
    assert Counter(map(len, again.values())) == Counter(map(len, eager.values()))


# ---- balance


def loads(shares):
    return sorted(map(len, shares.values()))


@settings(deadline=None)
@given(groups, counts, st.sampled_from([ROUND_ROBIN, STICKY]))
def test_members_that_want_the_same_get_equally_much(members, partitions, assignor):
    assume(members)
    alike = {who: subscription._replace(topics=TOPICS) for who, subscription in members.items()}
    found = loads(assignor.assign(alike, partitions))
    assert found[-1] - found[0] <= 1


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("ab"), min_size=1, unique=True).map(tuple), min_size=1, max_size=3),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_no_other_way_of_sharing_is_more_balanced(wanted, of_a, of_b):
    members = {str(n): Subscription(topics) for n, topics in enumerate(wanted)}
    partitions = sorted(expected_partitions(members, {"a": of_a, "b": of_b}))
    choices = [[who for who, s in members.items() if topic in s.topics] for topic, _ in partitions]
    best = min(sum(load * load for load in Counter(chosen).values()) for chosen in product(*choices))
    assert sum(load * load for load in loads(STICKY.assign(members, {"a": of_a, "b": of_b}))) == best


# ---- stickiness


def moved(before, after):
    return sum(len(set(share) - set(after.get(who, ()))) for who, share in before.items())


@settings(deadline=None)
@given(groups, counts, st.sampled_from(STICKY_ONES))
def test_nothing_moves_when_nothing_changes(members, partitions, assignor):
    shares = STICKY.assign(members, partitions)
    assert assignor.assign(rejoined(members, shares, 1), partitions) == shares


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(0, 30), st.integers(0, 30))
def test_a_new_member_takes_its_part_and_nothing_else_moves(size, of_a, of_b):
    members = {f"m{n}": member("a", "b") for n in range(size)}
    partitions = {"a": of_a, "b": of_b}
    before = STICKY.assign(members, partitions)
    grown = {**rejoined(members, before, 1), "l": member("a", "b")}
    after = STICKY.assign(grown, partitions)
    assert moved(before, after) == len(after["l"])
    assert len(after["l"]) in {(of_a + of_b) // (size + 1), -(-(of_a + of_b) // (size + 1))}

    first = COOPERATIVE_STICKY.assign(grown, partitions)
    assert first["l"] == []
    assert all(first[who] == share for who, share in after.items() if who != "l")
    assert COOPERATIVE_STICKY.assign(rejoined(grown, first, 2), partitions) == after


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(0, 30), st.integers(0, 30))
def test_what_a_member_leaves_is_all_that_moves(size, of_a, of_b):
    members = {f"m{n}": member("a", "b") for n in range(size)}
    partitions = {"a": of_a, "b": of_b}
    before = STICKY.assign(members, partitions)
    left = rejoined(members, before, 1)
    del left["m0"]
    for assignor in STICKY_ONES:
        after = assignor.assign(left, partitions)
        assert moved(before, after) == len(before["m0"])


@settings(deadline=None)
@given(groups, counts)
def test_balanced_members_keep_all_that_is_theirs_alone(members, partitions):
    """Whoever leaves a group with different subscriptions costs no more than a path of moves for each partition."""
    before = STICKY.assign(members, partitions)
    grown = {who: s._replace(owned=tuple(before[who]), generation=3) for who, s in members.items()}
    more = {**partitions, "a": partitions["a"] + 1}
    assert moved(before, STICKY.assign(grown, more)) <= max(0, len(members) - 1)


def test_the_highest_generation_has_what_two_claim():
    old = member("t", owned=tuple(of("t", 0, 1)), generation=3)
    new = member("t", owned=tuple(of("t", 0, 1)), generation=4)
    for names in (("a", "b"), ("b", "a")):
        shares = STICKY.assign({names[0]: old, names[1]: new, "c": member("t")}, {"t": 3})
        assert shares[names[1]][0] in of("t", 0, 1)
        assert COOPERATIVE_STICKY.assign({names[0]: old, names[1]: new}, {"t": 1})[names[1]] == of("t", 0)


def test_what_two_claim_in_one_generation_is_given_to_neither_before_both_let_go():
    both = member("t", owned=tuple(of("t", 0)), generation=4)
    assert COOPERATIVE_STICKY.assign({"a": both, "b": both}, {"t": 2}) == {"a": [], "b": of("t", 1)}


def test_eager_members_say_in_their_user_data_what_they_had():
    assert STICKY.user_data(of("t", 1), 7) == encode_sticky_data(of("t", 1), 7)
    assert RANGE.user_data(of("t", 1), 7) is None
    told = {
        "a": member("t", user_data=STICKY.user_data(of("t", 2, 3), 1)),
        "b": member("t", user_data=STICKY.user_data(of("t", 0, 1), 1)),
        "c": member("t", user_data=b"not what sticky writes"),
    }
    assert STICKY.assign(told, {"t": 6}) == {"a": of("t", 2, 3), "b": of("t", 0, 1), "c": of("t", 4, 5)}


def test_members_are_in_kafkas_order():
    members = {"a": member(), "b": member(group_instance_id="y"), "c": member(group_instance_id="x"), "B": member()}
    assert in_order(members) == ["c", "b", "B", "a"]


@pytest.mark.parametrize("assignor", ASSIGNORS.values(), ids=ASSIGNORS)
def test_a_large_group_is_quick(assignor):
    topics = [f"t{n}" for n in range(10)]
    members = {f"m{n}": member(*topics) for n in range(100)}
    members["m0"] = members["m0"]._replace(owned=tuple((t, n) for t in topics for n in range(100)), generation=1)
    start = perf_counter()
    assignor.assign(members, dict.fromkeys(topics, 100))
    assert perf_counter() - start < 1  # 60 ms at most where it was measured; the machine may be busy
