"""What the tests of the documentation share: its pages and the fenced blocks in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {str(p.relative_to(DOCS / "pages")): p for p in sorted((DOCS / "pages").rglob("*.md"))}


class Block(NamedTuple):
    """A fenced block."""

    language: str
    checked: bool
    """False where the page says ``.notest``."""
    text: str


def blocks(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    text = PAGES[page].read_text()
    for head, body in re.findall(r"^```(.+?)\n(.*?)^```$", text, re.M | re.S):
        words = re.findall(r"\w+", head)
        yield Block(words[0], "notest" not in words, body)


def having(language: str) -> list[str]:
    """Return the pages with a checked block in a language."""
    return [
        page for page in PAGES if any(b.checked and b.language == language for b in blocks(page))
    ]


def write_modules(page: str, folder: Path) -> None:
    """Write the modules of a page into a folder; the first line of each is its name."""
    for block in blocks(page):
        if name := re.match(r"# (\w+\.py)\n", block.text):
            (folder / name[1]).write_text(block.text)
