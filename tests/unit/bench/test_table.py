"""What is printed."""

import pytest

from bench.measure import Spread
from bench.table import Row, Table, figure


def row(**changes):
    given = {"name": "8 jobs", "unit": "tok/s", "better": "higher"}
    given |= {"ours": [120.0, 90.0, 100.0], "peer": [40.0, 30.0, 20.0]}
    return Row(**(given | changes))


def test_the_ratio_is_the_median_of_ratios_not_the_ratio_of_medians():
    assert row().ratio == Spread(3.0, 3.0, 5.0)
    assert row(better="lower").ratio == Spread(1 / 3, 0.2, 1 / 3)


def test_a_table_is_one_aligned_line_for_each_row():
    text = Table(
        name="train_many", what="tokens a second", rows=[row(), row(name="1 job", note="adds 2 ms")]
    ).as_text()
    title, header, first, second = text.splitlines()
    assert title == "train_many: tokens a second"
    assert [cell.strip() for cell in header.split("|")] == [
        "name",
        "ours",
        "peer",
        "ratio (min..max)",
        "rounds",
    ]
    assert [cell.strip() for cell in first.split("|")] == [
        "8 jobs",
        "100 tok/s",
        "30 tok/s",
        "3 (3..5)",
        "3",
    ]
    assert second.endswith("| 3  adds 2 ms")
    bars = [[at for at, letter in enumerate(line) if letter == "|"] for line in (header, first)]
    assert bars[0] == bars[1]


def test_json_has_every_measurement():
    table = Table(name="t", what="w", rows=[row(note="n")]).as_json()
    assert table["name"] == "t"
    assert table["rows"][0] == {
        "name": "8 jobs",
        "unit": "tok/s",
        "better": "higher",
        "ours": [120.0, 90.0, 100.0],
        "peer": [40.0, 30.0, 20.0],
        "ratio": {"median": 3.0, "min": 3.0, "max": 5.0},
        "rounds": 3,
        "note": "n",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.012345, "0.0123"),
        (0.79, "0.79"),
        (4.567, "4.57"),
        (106.0, "106"),
        (66345.0, "66300"),
        (1234567.0, "1230000"),
        (999.7, "1000"),
    ],
)
def test_figures_have_three_digits_and_no_exponent(value, text):
    assert figure(value) == text
