"""The site builds without a warning and loads nothing from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from docs_pages import DOCS, PAGES, ROOT

LOADING = ("src", "srcset", "data", "poster", "action")
"""Attributes whose address a browser loads by itself, or sends a form to."""


class Loads(HTMLParser):
    """Collects the addresses that a page loads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in LOADING or (name == "href" and tag in {"link", "use", "image"}):
                self.found.append(value or "")
            if name == "style":
                self.found += re.findall(r"url\(['\"]?([^'\")]+)", value or "")


def external(addresses: list[str]) -> list[str]:
    """Return the addresses that lead to another machine."""
    return [a for a in addresses if re.match(r"(https?:)?//", a.strip())]


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        '<img alt="" src=" http://example.org/x.png">',
        "<p style=\"background: url('https://example.org/x.png')\">",
    ],
)
def test_loading_from_elsewhere_is_seen(page: str) -> None:
    assert external(Loads(page).found)
    assert not external(Loads('<a href="https://arxiv.org">x</a><img src="x.png">').found)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "--config-file", str(DOCS / "mkdocs.yml"), "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stdout + done.stderr
    return folder


@pytest.mark.long
def test_every_page_is_there(site: Path) -> None:
    for page in [*PAGES, "tutorial/interactive.md"]:
        assert (site / page).with_suffix(".html").is_file()
    index = (site / "search/search_index.js").read_text()
    found = json.loads(index.removeprefix("var __index = "))
    assert any("epsilon_curve" in entry["text"] for entry in found["docs"])


@pytest.mark.long
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for path in pages:
        text = path.read_text()
        assert not external(Loads(text).found), path
        assert 'class="mermaid"' not in text, "its renderer would be loaded from a CDN"
        assert "<!-- made:" not in text
    for path in site.rglob("*.css"):
        loaded = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")]+)", path.read_text())
        assert not external(loaded), path
