"""A derivation names the lemma that a solver checks at the step that uses it, and names none that does not exist."""

from __future__ import annotations

import fnmatch
import importlib
import re
from pathlib import Path

import pytest

from certkv.proofs.exhaustive import FACTS
from certkv.proofs.lemmas import all_lemmas

FOLDER = Path(__file__).resolve().parents[2] / "docs/derivations"
PAGES = {path.stem: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.md"))}
LEMMAS = {lemma.id for lemma in all_lemmas()}
STEMS = sorted({name.partition(".")[0] for name in LEMMAS} & PAGES.keys())
OTHER_EVIDENCE = {fact.id for fact in FACTS}
FILES = ("py", "md")

NAME = r"`[a-z_0-9]+\.[a-z_0-9]*\*?`"
CALLED_LEMMAS = re.compile(rf"\blemmas?\s+({NAME}(?:(?:,\s+|,?\s+and\s+){NAME})*)", re.IGNORECASE)


def named(text: str) -> set[str]:
    """Names ``stem.name`` in code font whose stem is that of a page; ``stem.begin*`` names all that begin so."""
    found = {name.strip("`") for name in re.findall(NAME, text)}
    parts = {name: name.split(".") for name in found}
    return {name for name, (stem, rest) in parts.items() if stem in PAGES and rest not in FILES}


def missing(stem: str, text: str) -> set[str]:
    """Lemmas of a stem that its page does not name, each by its full id."""
    return {name for name in LEMMAS if name.partition(".")[0] == stem} - named(text)


def unknown(text: str) -> set[str]:
    """Names that are no lemma, exhaustive check or function of the reference; and what is wrongly called a lemma."""
    strangers = {name for name in named(text) if not _exists(name)}
    for called in CALLED_LEMMAS.findall(text):
        strangers |= {name for name in named(called) if not fnmatch.filter(LEMMAS, name)}
    return strangers


def _exists(name: str) -> bool:
    if fnmatch.filter(LEMMAS | OTHER_EVIDENCE, name):
        return True
    stem, _, function = name.partition(".")
    try:
        module = importlib.import_module(f"certkv.reference.bounds.{stem}")
    except ModuleNotFoundError:
        return False
    return hasattr(module, function)


@pytest.mark.parametrize("stem", STEMS)
def test_page_names_every_lemma_of_its_stem(stem: str) -> None:
    assert not missing(stem, PAGES[stem])


@pytest.mark.parametrize("stem", PAGES)
def test_page_names_no_lemma_that_does_not_exist(stem: str) -> None:
    assert not unknown(PAGES[stem])


def test_every_lemma_belongs_to_a_page() -> None:
    """Otherwise the first test would pass over it."""
    assert {name.partition(".")[0] for name in LEMMAS} == set(STEMS)


def test_a_page_without_a_lemma_is_seen() -> None:
    text = PAGES["hull"]
    assert missing("hull", text.replace("`hull.step`", "")) == {"hull.step"}
    assert missing("hull", "`hull.*`, hull.step, `hull.steps`") == missing("hull", "")


@pytest.mark.parametrize(
    "text",
    [
        "(`hull.stop`)",
        "(lemma `hull.stop`)",
        "(lemmas `hull.step`, `hull.stop`)",
        "(lemmas `hull.step` and\n`hull.stop`)",
        "lemma\n`mass.as_stated_quantized_query`, which is a function",
        "(lemma `rounding.widening`), which is an exhaustive check",
        "(`hull.st_*`)",
    ],
)
def test_an_unknown_name_is_seen(text: str) -> None:
    assert unknown(text)


@pytest.mark.parametrize(
    "text",
    [
        "(lemmas `hull.step`, `mass.below` and `hull.close`)",
        "`hull.*`, `rounding.widening`, `mass.as_stated_quantized_query`, `ladder.py`",
    ],
)
def test_a_known_name_is_not_complained_of(text: str) -> None:
    assert not unknown(text)
