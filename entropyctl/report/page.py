"""The page: sections, figures, responses and the library in one file that asks no network for anything."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from entropyctl.report.library import Library
from entropyctl.report.section import Section, Table
from entropyctl.show.text import shorten
from entropyctl.version import __version__

MOST_NOTES = 20
SCRIPTS = ("page.js", "charts.js", "responses.js")


class Tile(NamedTuple):
    """A number at the top of the page."""

    label: str
    value: str
    about: str = ""


class Browser(NamedTuple):
    """The section of single responses; without a payload, what would bring it."""

    title: str
    lead: str
    payload: dict[str, Any] | None


def page(
    name: str,
    tiles: Sequence[Tile],
    sections: Sequence[Section],
    browser: Browser,
    notes: Sequence[str],
    library: Library,
) -> str:
    """The whole file as text; the same for the same arguments.

    Args:
        name: of what is reported, for people.
        tiles: numbers at the top.
        sections: in order.
        browser: the responses, at the end.
        notes: what was left out, at the foot.
        library: what draws the figures.
    """
    style = _asset("page.css")
    scripts = [library.script, *(_asset(name) for name in SCRIPTS)]
    scripts = [script.replace("</script", "<\\/script").replace("<!--", "<\\!--") for script in scripts]
    figures = {section.id: section.figure for section in sections if section.figure is not None}
    return Template(_asset("page.html")).substitute(
        policy=_policy(scripts),
        version=__version__,
        title=_text(f"{shorten(name, 120)}"),
        name=_text(shorten(name, 300)),
        style=style,
        tiles="".join(map(_tile, tiles)),
        contents="".join(map(_entry, sections)) + '<li><a href="#responses">Responses</a></li>',
        sections="\n".join(map(_section, sections)),
        responses=_browser(browser),
        notes=_list([*notes[:MOST_NOTES], *_rest(notes)], "notes"),
        library=_text(library.name),
        licence=_text(library.licence),
        figures=_island(figures),
        payload=_island(browser.payload),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def _rest(notes: Sequence[str]) -> list[str]:
    left = len(notes) - MOST_NOTES
    return [f"and {left:,} more like these"] if left > 0 else []


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """What the browser may do: run these scripts, and nothing that needs a network.

    Styles are not told by digest: plotly.js brings its own, and with every fetch forbidden a style can do no harm.
    """
    rules = {
        "default-src": ["'none'"],
        "script-src": [_hash(script) for script in scripts],
        "style-src": ["'unsafe-inline'"],
        "img-src": ["data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    return "; ".join(f"{name} {' '.join(values)}" for name, values in rules.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _text(value: str) -> str:
    return html.escape(value)


def _prose(value: str) -> str:
    """Our own sentences: commands in backticks, and e to the power of H."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", _text(value)).replace("e^H", "e<sup>H</sup>")


def _island(value: Any) -> str:
    """JSON that ends no script element and begins no comment, in ASCII."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _tile(tile: Tile) -> str:
    about = f"<small>{_text(tile.about)}</small>" if tile.about else ""
    return f"<div><dt>{_text(tile.label)}</dt><dd>{_text(tile.value)}{about}</dd></div>"


def _entry(section: Section) -> str:
    kind = ' class="absent"' if section.missing else ""
    return f'<li{kind}><a href="#{section.id}">{_text(section.name)}</a></li>'


def _section(section: Section) -> str:
    parts = [
        f'<section id="{section.id}">',
        f'<p class="kind">{_text(section.name)}</p>',
        f"<h2>{_prose(section.title)}</h2>",
    ]
    if section.missing:
        return "\n".join([*parts, _absence(section.missing), "</section>"])
    if section.lead:
        parts.append(f'<p class="lead">{_prose(section.lead)}</p>')
    if section.figure is not None:
        label = _text(f"{section.title}. Arrow keys go from point to point; the numbers stand below as a table.")
        parts.append(
            f'<figure><div class="chart" data-figure="{section.id}" tabindex="0" role="application" '
            f'aria-roledescription="chart" aria-label="{label}"></div></figure>'
        )
    parts.append(_list(section.notes, "notes"))
    if section.table is not None:
        parts.append(_table(section.table))
    if section.figure is not None:
        parts.append('<details class="numbers"><summary>The numbers</summary></details>')
    return "\n".join([*filter(None, parts), "</section>"])


def _absence(what: str) -> str:
    return f'<p class="missing">Nothing to show: it needs {_prose(what)}.</p>'


def _list(lines: Sequence[str], kind: str) -> str:
    items = "".join(f"<li>{_prose(shorten(line, 600))}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _table(table: Table) -> str:
    def cell(tag: str, title: str, value: str) -> str:
        if title not in table.text:
            return f"<{tag}>{_text(value)}</{tag}>"
        inner = f"<span>{_text(value)}</span>" if tag == "td" else _text(value)
        return f'<{tag} class="text">{inner}</{tag}>'

    head = "".join(cell("th", title, title) for title in table.titles)
    rows = "".join(
        f"<tr>{''.join(cell('td', title, value) for title, value in zip(table.titles, row, strict=True))}</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(" ".join(table.titles))}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _browser(browser: Browser) -> str:
    if browser.payload is not None:
        return Template(_asset("responses.html")).substitute(title=_text(browser.title), lead=_prose(browser.lead))
    return f'<section id="responses"><h2>{_text(browser.title)}</h2>{_absence(browser.lead)}</section>'
