"""A reader of HTML that collects what a test looks at, and insists that tags are balanced."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "hr"}
FORBIDDEN = {"script", "link", "iframe", "object", "embed", "base"}


class Page(HTMLParser):
    """Tags, links, texts and table rows of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.labelled: list[str] = []
        self.alts: list[str] = []
        self.headless: list[str] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert not self.open, "every tag is closed"
        self.text = " ".join(" ".join(self.texts).split())
        self.html = html

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, dict(attrs))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"th", "td"}:
            self.rows[-1].append("")
        self.note(tag, dict(attrs))

    def note(self, tag: str, attrs: dict[str, str | None]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "srcset", "data", "poster", "xlink:href", "background"):
            if name in attrs:
                self.loaded.append(attrs[name] or "")
        if "href" in attrs:
            self.links.append(attrs["href"] or "")
        if attrs.get("id"):
            self.ids.append(attrs["id"] or "")
        self.labelled += (attrs.get("aria-labelledby") or "").split()
        if tag == "img":
            self.alts.append(attrs.get("alt") or "")
        if tag == "th" and "scope" not in attrs:
            self.headless.append(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.texts.append(data)
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data


def assert_self_contained(page: Page) -> None:
    """Assert that a page loads nothing, and that its links lead to places of the page."""
    assert page.loaded and all(url.startswith("data:image/") for url in page.loaded)
    assert page.links and {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert not FORBIDDEN & set(page.tags)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", page.html))
