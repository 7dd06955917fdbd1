"""Pages of one file: the shared look, text that stays text, pictures inside of the page.

Such a page fetches nothing and runs nothing, so it can be sent to a colleague or opened on a
telephone as it is. `look.css` beside this file has colours, type, tables and figures for all pages,
light and dark.
"""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

LOOK = Path(__file__).with_name("look.css")
"""The style sheet that pages share."""
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Controls, surrogates and what is no character: neither HTML nor XML can hold them."""
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main class="page">
"""
END = "</main>\n</body>\n</html>\n"


def head(title: str, style: str = "") -> str:
    """The page up to its first heading; `style` is CSS of its own, beside the shared look."""
    return _HEAD.format(title=escaped(title), style=LOOK.read_text(encoding="utf-8") + style)


def escaped(text: str) -> str:
    r"""Text for HTML or XML, between tags and in quotes.

    What cannot be shown is escaped, as \udce9.
    """
    shown = _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return html.escape(shown, quote=True)


def name(text: str) -> str:
    """A name of somebody else's, such as a file's: its writing direction stays its own."""
    return f"<bdi>{escaped(text)}</bdi>"


def data_uri(content: bytes, kind: str) -> str:
    """A file as an address; `kind` is its type, such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def thumbnail(picture: Image.Image, side: int) -> Image.Image:
    """The picture with a longer side of `side` pixels; small ones are enlarged to be seen."""
    from PIL import Image

    scale = side / max(picture.size)
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, method)


def jpeg(picture: Image.Image, quality: int = 80) -> bytes:
    """The picture as a JPEG file; quality 1..100."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue()


def image(picture: Image.Image, alt: str) -> str:
    """The picture inside of the page, as JPEG of its own size; `alt` is text, not yet escaped."""
    source = data_uri(jpeg(picture), "image/jpeg")
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img src="{source}" alt="{escaped(alt)}" {size}>'


def is_ours(file: Path, mark: str) -> bool:
    """Whether the mark is near the start of the file."""
    try:
        with file.open("rb") as content:
            return mark.encode() in content.read(1000)
    except OSError:
        return False
