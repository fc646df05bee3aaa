"""
A report from one structure: Markdown with pictures beside it, and one HTML page that holds all.

The HTML needs nothing but itself: pictures are in it, style is in it, no script, light and dark as
the reader's system is set. Whatever text comes in is escaped; `code` between backticks is the only
markup that texts have.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
import html as html_escapes
import math
from pathlib import Path
import re

from matplotlib.figure import Figure

from ..storage import atomic_file
from .page_style import DARK, drawn, LIGHT, STYLE

SHOWN, NOT_SHOWN = 'shown', 'not shown'
BAR_WIDTH, BAR_HEIGHT = 132, 16


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval; NaN where it cannot be said."""

    value: float
    low: float
    high: float

    def excludes(self, null: float) -> bool:
        """Tell whether the interval lies wholly on one side of `null`; without one: no."""
        return self.low > null or self.high < null


@dataclass(frozen=True)
class Column:
    """
    How a column of a table is written.

    digits: after the point. scale: what values are multiplied by (100 for percent). signed: with
    their sign. null: where the line of 'no difference' stands in the bars of a column of
    intervals (unscaled); None: no bars are drawn.
    """

    name: str
    digits: int = 1
    scale: float = 1.0
    signed: bool = False
    null: float | None = None

    def number(self, value: float) -> str:
        """Return a value as text; what is not finite is a dash."""
        if not math.isfinite(value):
            return '–'
        text = f'{value * self.scale:{"+" if self.signed else ""}.{self.digits}f}'
        return text.replace('-', '−')

    def text(self, cell: Cell) -> str:
        """Return a cell as plain text, an interval as 'value [low, high]'."""
        if isinstance(cell, str):
            return cell
        if isinstance(cell, Interval):
            if not math.isfinite(cell.low):
                return self.number(cell.value)
            return (f'{self.number(cell.value)} [{self.number(cell.low)}, '
                    f'{self.number(cell.high)}]')
        return self.number(float(cell))


Cell = str | float | Interval


@dataclass(frozen=True)
class Heading:
    """The title of a section."""

    title: str

    def markdown(self) -> str:
        return f'## {escape_markdown(self.title)}'

    def html(self) -> str:
        return f'<h2>{escape_html(self.title)}</h2>'


@dataclass(frozen=True)
class Text:
    """A paragraph, or with several items a list."""

    items: tuple[str, ...]
    listed: bool = False

    def markdown(self) -> str:
        texts = [escape_markdown(item) for item in self.items]
        return '\n'.join(f'- {t}' for t in texts) if self.listed else '\n\n'.join(texts)

    def html(self) -> str:
        texts = [escape_html(item) for item in self.items]
        if self.listed:
            return '<ul>' + ''.join(f'<li>{t}</li>' for t in texts) + '</ul>'
        return ''.join(f'<p>{t}</p>' for t in texts)


@dataclass(frozen=True)
class Findings:
    """Claims, each with the verdict that its interval gave: (verdict, claim)."""

    items: tuple[tuple[str, str], ...]

    def markdown(self) -> str:
        return '\n'.join(f'- **{escape_markdown(verdict)}**: {escape_markdown(claim)}'
                         for verdict, claim in self.items)

    def html(self) -> str:
        rows = [f'<li><span class="chip {_css(verdict)}">{escape_html(verdict)}</span>'
                f'<span>{escape_html(claim)}</span></li>' for verdict, claim in self.items]
        return f'<ul class="findings">{"".join(rows)}</ul>'


@dataclass(frozen=True)
class Table:
    """Rows under columns; the first column holds names. Intervals are also drawn as bars."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ''

    def markdown(self) -> str:
        words = [all(isinstance(row[i], str) for row in self.rows)
                 for i in range(len(self.columns))]
        lines = ['| ' + ' | '.join(escape_markdown(c.name) for c in self.columns) + ' |',
                 '| ' + ' | '.join('---' if w else '---:' for w in words) + ' |']
        for row in self.rows:
            texts = [escape_markdown(column.text(cell))
                     for column, cell in zip(self.columns, row, strict=True)]
            lines.append('| ' + ' | '.join(texts) + ' |')
        note = f'\n\n*{escape_markdown(self.caption)}*' if self.caption else ''
        return '\n'.join(lines) + note

    def html(self) -> str:
        ranges = [self._range(i) for i in range(len(self.columns))]
        head = ''.join(f'<th scope="col">{escape_html(c.name)}</th>' for c in self.columns)
        body = []
        for row in self.rows:
            cells = [f'<th scope="row">{escape_html(self.columns[0].text(row[0]))}</th>']
            cells += [self._cell(column, cell, span) for column, cell, span in zip(
                self.columns[1:], row[1:], ranges[1:], strict=True)]
            body.append(f'<tr>{"".join(cells)}</tr>')
        caption = f'<figcaption>{escape_html(self.caption)}</figcaption>' if self.caption else ''
        return (f'<figure class="table"><div class="scroll"><table><thead><tr>{head}</tr></thead>'
                f'<tbody>{"".join(body)}</tbody></table></div>{caption}</figure>')

    def _range(self, index: int) -> tuple[float, float] | None:
        """Return what a column's bars must span, so that they compare from row to row."""
        null = self.columns[index].null
        cells = [row[index] for row in self.rows]
        ends = [v for c in cells if isinstance(c, Interval) for v in (c.value, c.low, c.high)
                if math.isfinite(v)]
        if null is None or not ends:
            return None
        low, high = min(*ends, null), max(*ends, null)
        room = 0.06 * max(high - low, 1e-9)
        return low - room, high + room

    @staticmethod
    def _cell(column: Column, cell: Cell, span: tuple[float, float] | None) -> str:
        if not isinstance(cell, Interval):
            kind = 'word' if isinstance(cell, str) else 'number'
            text = escape_html(column.text(cell))
            if cell in (SHOWN, NOT_SHOWN):
                text = f'<span class="chip {_css(str(cell))}">{text}</span>'
            return f'<td class="{kind}">{text}</td>'
        value, _, rest = escape_html(column.text(cell)).partition(' ')
        bar = '' if span is None or column.null is None else _bar(cell, column.null, span)
        return f'<td class="number"><b>{value}</b> <small>{rest}</small>{bar}</td>'


@dataclass(frozen=True)
class Picture:
    """A picture: PNG bytes for light and, if drawn apart, for dark; `name` is its file's stem."""

    name: str
    light: bytes
    dark: bytes | None
    caption: str
    alt: str

    def markdown(self) -> str:
        return (f'![{escape_markdown(self.alt)}]({self.name}.png)\n\n'
                f'*{escape_markdown(self.caption)}*')

    def html(self) -> str:
        image = f'<img alt="{escape_html(self.alt)}" src="{_data(self.light)}">'
        if self.dark is not None:
            image = ('<picture><source media="(prefers-color-scheme: dark)" srcset="'
                     f'{_data(self.dark)}">{image}</picture>')
        return f'<figure>{image}<figcaption>{escape_html(self.caption)}</figcaption></figure>'


@dataclass
class Page:
    """A report under the making: blocks in reading order below a title and a first paragraph."""

    title: str
    lead: str
    blocks: list[Heading | Text | Findings | Table | Picture] = field(default_factory=list)

    def section(self, title: str, *paragraphs: str) -> None:
        """Begin a section."""
        self.blocks.append(Heading(title))
        if paragraphs:
            self.blocks.append(Text(paragraphs))

    def text(self, *paragraphs: str) -> None:
        """Add paragraphs."""
        self.blocks.append(Text(paragraphs))

    def listed(self, items: Sequence[str]) -> None:
        """Add a list."""
        self.blocks.append(Text(tuple(items), listed=True))

    def findings(self, items: Sequence[tuple[str, str]]) -> None:
        """Add claims with their verdicts, (verdict, claim)."""
        self.blocks.append(Findings(tuple(items)))

    def table(
        self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], caption: str = '',
    ) -> None:
        """Add a table; each row has a cell for each column."""
        self.blocks.append(Table(tuple(columns), tuple(tuple(row) for row in rows), caption))

    def picture(
        self, name: str, draw: Callable[[Figure], None], size: tuple[float, float], caption: str,
        alt: str,
    ) -> None:
        """Add what `draw` draws on an empty figure of `size` inches, once light and once dark."""
        light, dark = (drawn(draw, size, theme) for theme in (LIGHT, DARK))
        self.blocks.append(Picture(name, light, dark, caption, alt))

    def markdown(self) -> str:
        """Return the report as Markdown; its pictures are files beside it."""
        parts = [f'# {escape_markdown(self.title)}', escape_markdown(self.lead)]
        return '\n\n'.join(parts + [block.markdown() for block in self.blocks]) + '\n'

    def html(self) -> str:
        """Return the report as one page that needs no other file."""
        body = '\n'.join(block.html() for block in self.blocks)
        title = escape_html(self.title)
        return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
                f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
                f'<meta name="color-scheme" content="light dark">\n'
                f'<title>{title}</title>\n<style>{STYLE}</style></head>\n'
                f'<body><main>\n<h1>{title}</h1>\n<p class="lead">{escape_html(self.lead)}</p>\n'
                f'{body}\n</main></body></html>\n')

    def write(self, folder: Path) -> None:
        """Write report.html, report.md and the pictures of the latter into a folder."""
        for block in self.blocks:
            if isinstance(block, Picture):
                with atomic_file(folder / f'{block.name}.png') as temporary:
                    temporary.write_bytes(block.light)
        for name, text in (('report.md', self.markdown()), ('report.html', self.html())):
            with atomic_file(folder / name) as temporary:
                temporary.write_text(text, encoding='utf-8')


def escape_html(text: str) -> str:
    """Return text that is safe in HTML and its attributes; `code` between backticks is set so."""
    return re.sub(r'`([^`]+)`', r'<code>\1</code>', html_escapes.escape(text, quote=True))


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is; `code` between backticks stays code."""
    parts = re.split(r'(`[^`]+`)', text)
    return ''.join(part.replace('|', '\\|') if i % 2 else re.sub(r'([\\*_\[\]<>|])', r'\\\1', part)
                   for i, part in enumerate(parts))


def _css(verdict: str) -> str:
    return 'yes' if verdict.startswith(SHOWN) else 'no'


def _data(png: bytes) -> str:
    return 'data:image/png;base64,' + base64.b64encode(png).decode('ascii')


def _bar(cell: Interval, null: float, span: tuple[float, float]) -> str:
    """Return an interval as a line with a dot, beside the line of no difference, as SVG."""
    def at(value: float) -> float:
        return (value - span[0]) / (span[1] - span[0]) * BAR_WIDTH

    middle = BAR_HEIGHT / 2
    parts = [f'<line class="null" x1="{at(null):.1f}" x2="{at(null):.1f}" y1="0" '
             f'y2="{BAR_HEIGHT}"/>']
    if math.isfinite(cell.low):
        parts.append(f'<line class="span" x1="{at(cell.low):.1f}" x2="{at(cell.high):.1f}" '
                     f'y1="{middle}" y2="{middle}"/>')
    if math.isfinite(cell.value):
        parts.append(f'<circle cx="{at(cell.value):.1f}" cy="{middle}" r="3.5"/>')
    kind = 'clear' if cell.excludes(null) else 'open'
    return (f'<svg class="bar {kind}" width="{BAR_WIDTH}" height="{BAR_HEIGHT}" '
            f'viewBox="0 0 {BAR_WIDTH} {BAR_HEIGHT}" aria-hidden="true">{"".join(parts)}</svg>')
