import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_data.dedup.lines import line_hash, line_records, repeats, without_lines

LINES = ["the first long line", "another long line", "a third long line", "short"]


def left(documents, min_chars=8, max_documents=1):
    texts = ["\n".join(lines) for lines in documents]
    records = line_records(texts, range(len(texts)), min_chars)
    going = repeats(records, max_documents)
    return [
        without_lines(lines, going["value"][going["key"] == row], min_chars)
        for row, lines in enumerate(documents)
    ]


def test_a_line_of_an_earlier_document_goes_and_a_refrain_stays():
    a, b, c, short = LINES
    documents = [(a, b, a, short), (short, b, c, b), (c,), (a, short)]
    assert left(documents) == [(a, b, a, short), (short, c), (), (short,)]


def test_only_lines_of_many_documents_go_if_asked_for():
    a, b, c, _ = LINES
    documents = [(a, b), (a, c), (a, b), (a, a)]
    assert left(documents, max_documents=3) == [(a, b), (c,), (b,), ()]
    assert left(documents, max_documents=4) == documents


def test_length_is_in_characters():
    assert left([("猫" * 8,), ("猫" * 8,), ("猫" * 7,), ("猫" * 7,)])[1:] == [
        (),
        ("猫" * 7,),
        ("猫" * 7,),
    ]


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(LINES), min_size=1, max_size=5), max_size=12),
    st.integers(1, 4),
)
def test_what_is_left_is_what_the_rule_says(documents, most):
    holders = {line: [n for n, lines in enumerate(documents) if line in lines] for line in LINES}
    expected = [
        tuple(
            line
            for line in lines
            if len(line) < 8 or len(holders[line]) <= most or holders[line][0] == number
        )
        for number, lines in enumerate(documents)
    ]
    assert left([tuple(lines) for lines in documents], max_documents=most) == expected


def test_records_name_each_line_of_a_document_once():
    records = line_records(["\n".join([LINES[0], LINES[0], LINES[3]])], [7], 8)
    assert records.tolist() == [(line_hash(LINES[0]), 7)]
    assert len(repeats(np.zeros(0, records.dtype), 1)) == 0
