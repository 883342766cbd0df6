# SPDX-License-Identifier: Apache-2.0
"""Table, Markdown, JSON and chart of figures."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest
from bench import __main__ as bench_all
from bench import restart as bench_restart
from bench.chart import chart
from bench.figures import Figure, by_key
from bench.report import BEGIN, END, as_json, from_json, markdown, number, replace_figures, summary, table

SVG = "{http://www.w3.org/2000/svg}"
FIGURES = (
    Figure(key="program.xdp.established4", label="XDP established", unit="ns", samples=(30.0, 31.0, 50.0)),
    Figure(key="program.tc.established4", label="TC established", unit="ns", samples=(90.0,)),
    Figure(key="program.xdp.udp", label="XDP UDP <one>", unit="ns", samples=(28.0,)),
    Figure(key="control.list", label="loxicmd get lb", unit="ms", samples=(150.0,)),
    Figure(key="control.change", label="one endpoint", unit="ms", samples=(2.5,)),
)


def bars(picture: str) -> list[tuple[str, float]]:
    """Return what each bar of a chart stands for, and how long it is."""
    found = []
    for rect in ET.fromstring(picture).iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None:
            found.append((title.text or "", float(rect.attrib["width"])))
    return found


@pytest.mark.parametrize(("value", "text"), [(0.267, "0.27"), (9.5, "9.50"), (31, "31.0"), (1234.5, "1234")])
def test_numbers_have_the_digits_that_mean_something(value: float, text: str) -> None:
    """Three of them, more or less."""
    assert number(value) == text


def test_the_table_tells_pass_from_miss() -> None:
    """One line a figure, under the title of its section."""
    lines = table(FIGURES).splitlines()
    (passed,) = (line for line in lines if "XDP established" in line)
    (missed,) = (line for line in lines if "TC established" in line and "missed" not in line)

    assert passed.split() == ["XDP", "established", "31.0", "ns", "30.0..50.0", "≤", "35.0", "pass"]
    assert missed.split()[-1] == "miss"
    assert [line for line in lines if line.startswith("Control")] == ["Control plane"]


def test_the_summary_names_what_is_missed_and_what_is_missing() -> None:
    """And says by how much."""
    text = summary(FIGURES, ["program.xdp.not_ours"])

    assert text.splitlines() == [
        "3 of 4 targets met.",
        "missed: program.tc.established4: 90.0 for 60.0, 50 % over",
        "not measured: program.xdp.not_ours",
    ]


def test_json_brings_back_every_figure() -> None:
    """Samples and all."""
    data = as_json(FIGURES, machine={"cpu": "x"}, quick=True)

    assert from_json(data) == list(FIGURES)
    assert data["figures"][0]["median"] == 31
    assert data["figures"][1]["verdict"] == "miss"


def test_figures_are_replaced_in_a_document() -> None:
    """What surrounds them stays; a document without their place is refused."""
    document = f"before\n{BEGIN}\nold\n{END}\nafter\n"

    assert replace_figures(document, BEGIN, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(ValueError, match="no place"):
        replace_figures(document, "other marks", "new")
    assert "| XDP established | 31.0 ns | 30.0..50.0 | ≤ 35.0 | pass |" in markdown(FIGURES)


@pytest.mark.parametrize("measure", [bench_all, bench_restart], ids=["bench", "bench.restart"])
def test_without_figures_it_says_what_to_do(
    measure: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is no file, or half of one."""
    out = tmp_path / "figures.json"

    assert measure.main(["--document", "--out", str(out)]) == 1
    assert re.search(rf"{out} is not there: measure first \(sudo make bench", capsys.readouterr().err)

    out.write_text('{"figures"')
    assert measure.main(["--document", "--out", str(out)]) == 1
    assert re.search(r"has no figures \(.*\): measure again \(sudo make bench", capsys.readouterr().err)


def test_bars_are_as_long_as_their_values() -> None:
    """Within one panel, up to where bars are cut."""
    found = dict(bars(chart(by_key(FIGURES))))

    assert found["TC established: 90.0"] == pytest.approx(found["XDP established: 31.0"] * 90 / 31, abs=0.3)
    assert found["katran (XDP): 125"] == pytest.approx(found["TC established: 90.0"] * 125 / 90, abs=0.3)
    assert "XDP UDP <one>: 28.0" in found


def test_a_chart_shows_the_sections_that_were_measured() -> None:
    """One panel each."""
    titles = {text.text for text in ET.fromstring(chart(by_key(FIGURES))).iter(f"{SVG}text")}

    assert "Control plane, ms" in titles
    assert "Program cost, ns per packet" in titles
    assert not any(title and title.startswith(("Live", "Sockets")) for title in titles)
