"""How the report pages and their pictures look, on light and on dark screens."""

from __future__ import annotations

from collections.abc import Callable
import io
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import matplotlib.rcsetup

LIGHT = {'paper': '#ffffff', 'ink': '#1d2530', 'faint': '#d5dae1'}
DARK = {'paper': '#171b21', 'ink': '#dde3ea', 'faint': '#3a424d'}
# Told apart by people with any colour vision (Okabe and Ito), and on white and black alike.
COLOURS = ['#d55e00', '#0072b2', '#009e73', '#cc79a7', '#e69f00', '#56b4e9']


def drawn(
    draw: Callable[[Figure], None], size: tuple[float, float], theme: dict[str, str],
) -> bytes:
    """Return the PNG of what `draw` draws on a figure of `size` inches, in a theme's colours."""
    ink, paper = theme['ink'], theme['paper']
    settings: Any = {
        'figure.facecolor': paper, 'savefig.facecolor': paper, 'axes.facecolor': paper,
        'text.color': ink, 'axes.labelcolor': ink, 'axes.edgecolor': ink, 'axes.titlecolor': ink,
        'xtick.color': ink, 'ytick.color': ink, 'grid.color': theme['faint'],
        'legend.facecolor': paper, 'legend.edgecolor': theme['faint'], 'font.size': 10.5,
        'axes.spines.top': False, 'axes.spines.right': False,
        'axes.prop_cycle': matplotlib.rcsetup.cycler(color=COLOURS)}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, dpi=150, layout='constrained')
        draw(figure)
        stream = io.BytesIO()
        FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


STYLE = """
:root{--paper:#fff;--ink:#1d2530;--soft:#5b6673;--line:#dfe3e8;--tint:#f5f7f9;--yes:#0a6b3d;
--yes-tint:#e2f4ea;--no:#566170;--no-tint:#eceff3;--mark:#0072b2;--open:#98a2ae}
@media (prefers-color-scheme:dark){:root{--paper:#171b21;--ink:#dde3ea;--soft:#9ba6b3;
--line:#323a44;--tint:#1e242c;--yes:#7fdcaa;--yes-tint:#173527;--no:#aab4c0;--no-tint:#2a313a;
--mark:#62b7ee;--open:#77828f}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:17px/1.6 system-ui,-apple-system,"Segoe UI","Noto Sans",Roboto,sans-serif}
main{max-width:60rem;margin:0 auto;padding:3rem 1.5rem 5rem}
h1{font-size:2.1rem;line-height:1.2;letter-spacing:-.015em;margin:0 0 .6rem;text-wrap:balance}
h2{font-size:1.35rem;line-height:1.3;margin:3rem 0 .7rem;padding-top:1.2rem;
border-top:1px solid var(--line)}
p,ul{max-width:44rem;margin:.7rem 0}
.lead{font-size:1.15rem;color:var(--soft);max-width:46rem}
code{font:.88em ui-monospace,"SF Mono",Menlo,Consolas,monospace;background:var(--tint);
padding:.1em .35em;border-radius:.25em;overflow-wrap:anywhere}
figure{margin:1.6rem 0}
figure img{display:block;width:100%;height:auto;border-radius:.4rem}
figcaption{color:var(--soft);font-size:.92rem;line-height:1.5;margin-top:.6rem;max-width:46rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.92rem;min-width:60%;font-variant-numeric:tabular-nums}
th,td{padding:.45rem .8rem;text-align:left;border-bottom:1px solid var(--line);
vertical-align:middle}
thead th{font-weight:600;color:var(--soft);font-size:.84rem;vertical-align:bottom;line-height:1.35}
tbody th{font-weight:600}
tbody tr:hover{background:var(--tint)}
td.number{white-space:nowrap}
td small{color:var(--soft);font-size:.86em}
svg.bar{display:block;margin-top:.15rem}
svg .null{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 2}
svg .span{stroke-width:3;stroke-linecap:round}
svg.clear .span{stroke:var(--mark)}svg.clear circle{fill:var(--mark)}
svg.open .span{stroke:var(--open)}svg.open circle{fill:var(--open)}
ul.findings{list-style:none;padding:0;max-width:52rem}
ul.findings li{display:grid;grid-template-columns:7.6rem 1fr;gap:.9rem;align-items:baseline;
padding:.55rem 0;border-bottom:1px solid var(--line)}
.chip{display:inline-block;font-size:.8rem;font-weight:600;line-height:1.35;padding:.15rem .6rem;
border-radius:1rem;text-align:center}
.chip.yes{color:var(--yes);background:var(--yes-tint)}
.chip.no{color:var(--no);background:var(--no-tint)}
@media (max-width:40rem){main{padding:1.5rem 1rem 3rem}
ul.findings li{grid-template-columns:1fr;gap:.2rem}}
@media print{main{max-width:none;padding:0}figure{break-inside:avoid}}
"""
