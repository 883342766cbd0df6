# SPDX-License-Identifier: Apache-2.0
"""The text format and histograms, read back by the library of Prometheus."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loxilb.proto.metrics import Family, Histogram, Kind, labelled, render

BOUNDS = (0.1, 1.0)


def read(*families: Family) -> dict[tuple[str, ...], float]:
    """Return the samples of a text, by name and label values."""
    found = text_string_to_metric_families(render(families).decode())
    return {(one.name, *one.labels.values()): one.value for family in found for one in family.samples}


def family(name: str, *samples: tuple[str, float], kind: Kind = Kind.GAUGE) -> Family:
    """Build a family."""
    return Family(name=name, kind=kind, about="What it is", samples=samples)


@pytest.mark.parametrize("text", ["web", 'say "hello"', "back\\slash", "two\nlines", "", "größe", "a,b={}"])
def test_any_label_is_read_back(text: str) -> None:
    """Quotes, backslashes and line breaks are escaped, and nothing else is."""
    assert read(family("size", (labelled(service=text, dip="::1"), 3))) == {("size", text, "::1"): 3}


def test_values_keep_their_digits() -> None:
    """Counters of 64 bits and fractions."""
    assert read(family("a", ("", 2**53 - 1)), family("b", ("", 0.125))) == {("a",): 2**53 - 1, ("b",): 0.125}


def test_kind_and_meaning_are_told() -> None:
    """Before the samples."""
    text = render([family("hits_total", ("", 1), kind=Kind.COUNTER)])

    assert text == b"# HELP hits_total What it is\n# TYPE hits_total counter\nhits_total 1\n"


def test_a_family_without_samples_is_left_out() -> None:
    """Nothing is said of what nobody knows."""
    assert render([family("a")]) == b""


def test_families_may_share_their_samples() -> None:
    """Two names of one thing."""
    samples = [("", 4.0)]
    both = [Family(name=name, kind=Kind.GAUGE, about="It", samples=samples) for name in ("old", "new")]

    assert read(*both, family("a", ("", 1))) == {("old",): 4, ("new",): 4, ("a",): 1}


def test_histogram_counts_up_to_each_bound() -> None:
    """A bound belongs to its bucket; buckets add up; sum and count agree."""
    histogram = Histogram(BOUNDS)
    for seconds in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(seconds)

    found = read(family("apply_seconds", *histogram.samples(), kind=Kind.HISTOGRAM))

    assert found == {
        ("apply_seconds_bucket", "0.1"): 2,
        ("apply_seconds_bucket", "1.0"): 3,
        ("apply_seconds_bucket", "+Inf"): 4,
        ("apply_seconds_sum",): pytest.approx(7.65),
        ("apply_seconds_count",): 4,
    }


def test_histogram_takes_labels() -> None:
    """Before the bound."""
    histogram = Histogram(BOUNDS)
    histogram.observe(0.5)

    found = read(family("probe_seconds", *histogram.samples('type="tcp"'), kind=Kind.HISTOGRAM))

    assert found["probe_seconds_bucket", "tcp", "1.0"] == 1
    assert found["probe_seconds_count", "tcp"] == 1
