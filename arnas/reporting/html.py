"""Rendering of pages that load nothing from elsewhere."""

from __future__ import annotations

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from arnas.reporting.format import interval, percent


def render_page(template: str, **values: Any) -> str:
    """Return the HTML of a template of this package, which may extend ``base.html.j2``."""
    environment = Environment(
        loader=PackageLoader("arnas.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval}
    return environment.get_template(template).render(**values)


def data_url(data: bytes, kind: str) -> str:
    """Return an image as a URL that holds it; `kind` is that of its media type, such as png."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
