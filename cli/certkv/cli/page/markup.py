"""HTML out of text, with everything escaped that was not made here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from certkv.cli.text import printable


class Markup(str):
    """Text that is HTML already. Only this module and the SVG writer make it."""

    __slots__ = ()


def escape(content: str) -> Markup:
    """Return text as HTML; `Markup` stays as it is."""
    if isinstance(content, Markup):
        return content
    before, after = (" " if end.isspace() else "" for end in (content[:1], content[-1:]))
    return Markup(before + html.escape(printable(content, "utf-8"), quote=True) + after)


def join(parts: Iterable[str], between: str = "\n") -> Markup:
    """Put parts together, escaping what is text."""
    return Markup(between.join(escape(part) for part in parts))


def element(name: str, *content: str, **attributes: str) -> Markup:
    """Return an element; ``class_`` stands for the attribute ``class``, and ``_`` in other names for ``-``."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(printable(value, "utf-8"), quote=True)}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{given}>{join(content, '')}</{name}>")


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], groups: Sequence[int] = ()) -> Markup:
    """Return a table whose first column names its rows.

    Parameters
    ----------
    caption : str
    header : sequence of str
    rows : iterable of sequence of str
        As long as the header.
    groups : sequence of int
        Rows (counted from 0) that end a group.

    Returns
    -------
    Markup
    """
    head = element("tr", *(element("th", name, scope="col") for name in header))
    body = []
    for i, (first, *rest) in enumerate(rows):
        cells = (element("th", first, scope="row"), *(element("td", cell) for cell in rest))
        body.append(element("tr", *cells, class_="last") if i in groups else element("tr", *cells))
    whole = element(
        "table", element("caption", caption), element("thead", head), element("tbody", join(body)), class_="figures"
    )
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def folded(title: str, content: str, unfolded: bool) -> Markup:
    """Return content that the reader can fold."""
    whole = element("details", element("summary", title), content)
    return Markup(whole.replace("<details>", "<details open>", 1)) if unfolded else whole
