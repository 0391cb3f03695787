"""Records kept by column: whatever they are, they are encoded as they are row by row, and found again."""

from hypothesis import given
from hypothesis import strategies as st
from zmqbroker.log.columns import NO_HEADERS, RecordColumns
from zmqbroker.log.compression import GZIP
from zmqbroker.log.records import decode_batch, encode_batch, encode_columns
from zmqbroker.log.uniform_records import encode_uniform

BASE = 1_700_000_000_000

any_rows = st.lists(
    st.tuples(
        st.integers(BASE - 100, BASE + 100),
        st.none() | st.binary(max_size=5),
        st.none() | st.binary(max_size=20),
        st.just([]) | st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=3)), max_size=2),
    ),
    min_size=1,
    max_size=40,
)


@st.composite
def uniform_rows(draw):
    size = draw(st.sampled_from([0, 1, 63, 64, 100, 8191, 8192]))
    count = draw(st.sampled_from([16, 17, 63, 64, 65, 300]) if size < 8000 else st.just(16))
    steps = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    rows, timestamp = [], BASE
    for position, step in enumerate(steps):
        timestamp = min(timestamp + step, BASE + 63)
        rows.append((timestamp, None, bytes([position % 256]) * size, NO_HEADERS))
    return rows


def columns_of(rows):
    columns = RecordColumns()
    for row in rows:
        columns.append(*row)
    return columns


@given(any_rows | uniform_rows())
def test_columns_are_encoded_as_rows_are(rows):
    columns = columns_of(rows)
    assert list(columns.rows()) == rows
    assert encode_columns(columns, producer_id=7, producer_epoch=1, base_sequence=9) == encode_batch(
        rows, producer_id=7, producer_epoch=1, base_sequence=9
    )
    assert [columns.timestamp(position) for position in range(len(rows))] == [row[0] for row in rows]


@given(uniform_rows())
def test_uniform_rows_take_the_fast_way(rows):
    assert encode_uniform(columns_of(rows)) is not None


def test_a_long_uniform_batch_crosses_every_width_of_an_offset():
    rows = [(BASE, None, b"x" * 10, NO_HEADERS)] * 9_000
    assert encode_columns(columns_of(rows)) == encode_batch(rows)


def test_what_is_not_uniform_is_left_to_the_codec():
    rows = [(BASE, None, b"xx", NO_HEADERS)] * 20
    for other in (
        (BASE, b"k", b"xx", []),
        (BASE, None, None, []),
        (BASE, None, b"y", []),
        (BASE + 64, None, b"xx", []),
    ):
        assert encode_uniform(columns_of([*rows, other])) is None
    assert encode_uniform(columns_of(rows[:15])) is None


@given(any_rows | uniform_rows())
def test_compressed_columns_are_read_back(rows):
    batch = encode_columns(columns_of(rows), compression=GZIP)
    found = decode_batch(batch, max_decompressed_bytes=10_000_000)
    assert [(r.timestamp, r.key, r.value, list(r.headers)) for r in found] == [
        (timestamp, key, value, [tuple(header) for header in headers]) for timestamp, key, value, headers in rows
    ]


@given(any_rows, st.data())
def test_a_part_holds_its_neighbours(rows, data):
    first = data.draw(st.integers(0, len(rows)))
    end = data.draw(st.integers(first, len(rows)))
    assert list(columns_of(rows).part(first, end).rows()) == rows[first:end]


@given(any_rows, st.none() | st.binary(max_size=3), st.lists(st.none() | st.binary(max_size=3), max_size=5))
def test_extending_is_appending_each(rows, key, values):
    extended, appended = columns_of(rows), columns_of(rows)
    extended.extend(BASE, key, values)
    for value in values:
        appended.append(BASE, key, value, NO_HEADERS)
    assert list(extended.rows()) == list(appended.rows())
