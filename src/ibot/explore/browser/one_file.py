"""The files of the page as one file, with answers in place of a server.

Nothing is fetched, and only the page's own scripts run: their hashes are all that its policy
allows.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("page")
"""Files of the page."""
LOOK = Path(__file__).parents[2] / "report" / "look.css"
"""The style that pages share."""
_LINK = re.compile(r'<link rel="stylesheet" href="([^"]+)">')
_SCRIPT = re.compile(r'<script src="([^"]+)"></script>')


def whole_page(answers: Mapping[str, Any]) -> str:
    """HTML with the page's styles and scripts in it.

    answers: what the page finds in `window.IBOT_EXPORT`: JSON, or pictures as data URIs, by the
    address under which the server has them.
    """
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    styles = [_file(address) for address in _LINK.findall(page)]
    scripts = [f"window.IBOT_EXPORT = {_as_script(answers)};"]
    scripts += [
        _file(address).replace("</script", "<\\/script") for address in _SCRIPT.findall(page)
    ]
    policy = (
        f"default-src 'none'; img-src data: blob:; script-src {_hashes(scripts)}; "
        f"style-src {_hashes(styles)}; base-uri 'none'; form-action 'none'"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    page = page.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{meta}', 1)
    left = iter(styles)
    page = _LINK.sub(lambda _: f"<style>{next(left)}</style>", page)
    first, *others = scripts
    left_scripts = iter([f"{_tag(first)}\n{_tag(others[0])}", *map(_tag, others[1:])])
    return _SCRIPT.sub(lambda _: next(left_scripts), page)


def _file(address: str) -> str:
    """The content of a file of the page, by its address."""
    path = LOOK if address == "/look.css" else PAGE / address.removeprefix("/page/")
    return path.read_text(encoding="utf-8")


def _tag(script: str) -> str:
    return f"<script>{script}</script>"


def _hashes(texts: list[str]) -> str:
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _as_script(value: Any) -> str:
    r"""JSON that may stand in a script: names of files can hold `</script>`, or end a line by
    U+2028.
    """
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
