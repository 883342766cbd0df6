# SPDX-License-Identifier: Apache-2.0
"""Figures as one SVG picture: bars in four panels, readable on light and dark pages."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from bench.figures import Figure
from bench.report import number
from bench.targets import RECORDED

_WIDTH, _MARGIN, _GAP = 1000, 24, 28
_LABEL, _VALUE = 156, 66
_BAR, _STEP, _GROUP = 13, 17, 12
_TITLE = 62
_LETTER = 6.3  # width of one of the legend's, roughly: SVG cannot measure text

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.page { fill: #ffffff } .panel { fill: #f6f8fa; stroke: #d0d7de }
.title { font-weight: 600; font-size: 15px } .note, .value { font-size: 11px } .note { fill: #57606a }
.head { font-weight: 700; font-size: 20px }
.ours { fill: #0969da } .second { fill: #54aeff }
.peer { fill: #afb8c1 } .other { fill: #d4a72c } .third { fill: #bc8cff }
.mark { stroke: #cf222e; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .page { fill: #0d1117 } .panel { fill: #161b22; stroke: #30363d } .note { fill: #8b949e }
  .ours { fill: #388bfd } .second { fill: #79c0ff } .peer { fill: #6e7681 } .other { fill: #bb8009 }
  .mark { stroke: #ff7b72 }
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: its value, the class that colours it, what it stands for, and the target marked on it."""

    value: float
    colour: str
    name: str
    target: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Groups of bars over one scale; bars longer than ``limit`` are cut and say their value.

    ``legend`` pairs colours with what they stand for, ``mark`` is what the lines across bars stand for.
    """

    title: str
    legend: tuple[tuple[str, str], ...]
    mark: str
    groups: tuple[tuple[str, tuple[Bar, ...]], ...]
    limit: float
    foot: str = ""

    @property
    def height(self) -> float:
        """Height of the panel with its title and its foot."""
        return _TITLE + sum(len(bars) * _STEP + _GROUP for _, bars in self.groups) + _GROUP


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _bar(bar: Bar, x: float, y: float, room: float, limit: float) -> Iterator[str]:
    length = max(1.0, min(bar.value / limit, 1.0) * room)
    yield (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{length:.1f}" height="{_BAR}" rx="2" class="{bar.colour}">'
        f"<title>{escape(bar.name)}: {number(bar.value)}</title></rect>"
    )
    clear = x + length
    if bar.target is not None and bar.target <= limit:
        at = x + bar.target / limit * room
        clear = max(clear, at)
        yield f'<path d="M{at:.1f} {y - 2:.1f}v{_BAR + 4}" class="mark"/>'
    yield _text(clear + 5, y + _BAR - 2.5, f"{number(bar.value)}{' →' if bar.value > limit else ''}", "value")


def _legend(panel: Panel, x: float, y: float) -> Iterator[str]:
    for colour, name in panel.legend:
        yield f'<rect x="{x:.1f}" y="{y - 9:.1f}" width="10" height="10" rx="2" class="{colour}"/>'
        yield _text(x + 14, y, name, "note")
        x += 14 + len(name) * _LETTER + 10
    yield f'<path d="M{x + 3:.1f} {y - 10:.1f}v12" class="mark"/>'
    yield _text(x + 10, y, panel.mark, "note")


def _draw(panel: Panel, x: float, y: float, width: float, height: float) -> Iterator[str]:
    yield f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" class="panel"/>'
    yield _text(x + 16, y + 25, panel.title, "title")
    yield from _legend(panel, x + 16, y + 46)
    yield _text(x + 16, y + height - 14, panel.foot, "note")
    at, room = y + _TITLE, width - _LABEL - _VALUE - 16
    for label, bars in panel.groups:
        middle = at + len(bars) * _STEP / 2 + 3
        yield _text(x + _LABEL - 8, middle, label, anchor="end")
        for bar in bars:
            yield from _bar(bar, x + _LABEL, at, room, panel.limit)
            at += _STEP
        at += _GROUP


_CASES = {
    "established4": "IPv4, 1 flow",
    "established6": "IPv6, 1 flow",
    "random10k": "10 k flows",
    "random100k": "100 k flows",
    "udp": "UDP, 1 flow",
    "fullnat": "full NAT",
    "new_steady": "new flow each",
    "not_ours": "not ours",
}


def _program_bars(figures: Mapping[str, Figure], case: str) -> Iterator[Bar]:
    for hook, colour in (("xdp", "ours"), ("tc", "second")):
        figure = figures.get(f"program.{hook}.{case}")
        if figure is not None:
            yield Bar(value=figure.median, colour=colour, name=figure.label, target=figure.target)
    peers = RECORDED.get(case)
    for name, value, colour in (
        (("katran (XDP)", peers.katran, "peer"), ("loxilb in Go (TC)", peers.original, "other")) if peers else ()
    ):
        if value is not None:
            yield Bar(value=value, colour=colour, name=name)


def _program(figures: Mapping[str, Figure]) -> Panel:
    groups = tuple((label, tuple(_program_bars(figures, case))) for case, label in _CASES.items())
    return Panel(
        title="Program cost, ns per packet",
        legend=(("ours", "XDP"), ("second", "TC"), ("peer", "katran, XDP"), ("other", "loxilb in Go, TC")),
        mark="target",
        groups=groups,
        limit=1000,
        foot="katran and loxilb in Go: recorded, not measured in this run",
    )


def _frames(figures: Mapping[str, Figure]) -> Panel:
    ways = (("xdp", "ours"), ("tc", "second"), ("route", "peer"), ("nft", "other"))
    nft = figures["frames.cost.nft"].median
    groups = []
    for way, colour in ways:
        figure, ratio = figures[f"frames.cost.{way}"], figures.get(f"frames.ratio.{way}")
        target = None if ratio is None or ratio.target is None else ratio.target * nft
        bar = Bar(value=figure.median, colour=colour, name=figure.label, target=target)
        groups.append((figure.label, (bar,)))
    return Panel(
        title="Live frames, CPU ns per packet",
        legend=(),
        mark="target: a share of nft DNAT",
        groups=tuple(groups),
        limit=max(bar.value for _, (bar,) in groups) * 1.05,
    )


def _sockets(figures: Mapping[str, Figure]) -> Panel:
    tests = {"close": "connection", "keep": "request", "bulk": "gigabyte", "p50": "time, p50"}
    ways = {"loxilb": ("second", "loxilb, TC"), "nft": ("other", "nft DNAT"), "haproxy": ("third", "haproxy")}
    groups = tuple(
        (
            label,
            tuple(
                Bar(value=figure.median, colour=colour, name=figure.label, target=1.0)
                for way, (colour, _) in ways.items()
                for figure in (figures[f"sockets.ratio.{test}.{way}"],)
            ),
        )
        for test, label in tests.items()
    )
    return Panel(
        title="Sockets over veth, CPU relative to direct routing",
        legend=tuple(ways.values()),
        mark="direct routing",
        groups=groups,
        limit=2.5,
    )


def _control(figures: Mapping[str, Figure]) -> Panel:
    names = {"control.list": "loxicmd get lb", "control.change": "one endpoint"}
    groups = tuple(
        (
            label,
            (Bar(value=figures[key].median, colour="ours", name=figures[key].label, target=figures[key].target),),
        )
        for key, label in names.items()
    )
    return Panel(
        title="Control plane, ms",
        legend=(),
        mark="target",
        groups=groups,
        limit=max(bar.target or bar.value for _, (bar,) in groups) * 1.1,
    )


_PANELS = {"program": _program, "frames": _frames, "sockets": _sockets, "control": _control}


def _columns(panels: Mapping[str, Panel]) -> Sequence[Sequence[Panel]]:
    """Programs on the left, the rest on the right; whatever there is where one side is empty."""
    left = [panel for name, panel in panels.items() if name == "program"]
    right = [panel for name, panel in panels.items() if name != "program"]
    return [column for column in (left, right) if column]


def chart(figures: Mapping[str, Figure]) -> str:
    """Return the picture of the sections that were measured."""
    sections = {figure.section for figure in figures.values()}
    columns = _columns({name: draw(figures) for name, draw in _PANELS.items() if name in sections})
    width = (_WIDTH - 2 * _MARGIN - _GAP * (len(columns) - 1)) / max(1, len(columns))
    height = max((sum(panel.height + _GAP for panel in column) for column in columns), default=0) + 56
    body: list[str] = []
    for place, column in enumerate(columns):
        at = 64.0
        for panel in column:
            # A single panel fills its column.
            tall = height - 64 - _GAP + 8 if len(column) == 1 else panel.height
            body += _draw(panel, _MARGIN + place * (width + _GAP), at, width, tall)
            at += panel.height + _GAP
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" role="img">',
            f"<title>What forwarding costs</title><style>{_STYLE}</style>",
            f'<rect width="{_WIDTH}" height="{height:.0f}" class="page"/>',
            _text(_MARGIN, 42, "What forwarding costs (shorter is better)", "head"),
            *body,
            "</svg>",
            "",
        )
    )
