"""The HTML document around the content of a page."""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from experiments.common.json_files import finite_or_null

PAGE_MARK: Final = b'<meta name="generator" content="jaxbox">'
"""What every page has, and by which a program recognises pages that it may replace."""


def document(content: Mapping[str, Any]) -> bytes:
    """A page as HTML, with its style, its program and its content inside.

    Args:
      content: what the program on the page draws; it has a `title`.
    """
    folder = Path(__file__).parent
    template = (folder / "page.html").read_text("utf-8")
    # "</script>" in a class's name would end the element that holds the content.
    data = json.dumps(finite_or_null(dict(content)), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "title": html.escape(str(content["title"])),
        "mark": PAGE_MARK.decode(),
        "style": (folder / "page.css").read_text("utf-8"),
        "program": (folder / "page.js").read_text("utf-8"),
        "content": data,
    }
    # In one pass, since the content may have the name of a place in it.
    before, *places = template.split("{{")
    text = before
    for place in places:
        name, _, after = place.partition("}}")
        text += parts[name] + after
    return text.encode("utf-8", "backslashreplace")
