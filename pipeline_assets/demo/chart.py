"""A bar chart of revenue by day as one HTML file without scripts."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

_PAGE = """<!doctype html><meta charset="utf-8"><title>Revenue by day</title>
<style>body{{font:14px system-ui;margin:3em;color:#223}}.b{{display:flex;align-items:flex-end;height:320px;gap:2px}}
.b div{{flex:1;background:#4a6fa5;min-width:1px}}.b div:hover{{background:#c44}}</style>
<h1>Revenue by day, GBP</h1><p>{first} to {last}, total {total:,.2f}. Hover for a day's figure.</p>
<div class="b">{bars}</div>
<p>gold.daily_sales of the demo. Data: UCI Online Retail (Chen, 2015), doi 10.24432/C5BW33, CC BY 4.0.</p>"""


def write(path: Path, days: Sequence[tuple[date, float]]) -> None:
    """Write the chart.

    Args:
        path: The HTML file.
        days: Day and revenue in GBP, in order; at least one.
    """
    top = max(revenue for _, revenue in days) or 1
    bars = "".join(
        f'<div style="height:{max(revenue, 0) / top:.1%}" title="{day}: {revenue:,.2f}"></div>' for day, revenue in days
    )
    total = sum(revenue for _, revenue in days)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_PAGE.format(first=days[0][0], last=days[-1][0], total=total, bars=bars), encoding="utf-8")
