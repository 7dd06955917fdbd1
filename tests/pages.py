"""Pages as a reader of HTML takes them, and names that want to break out of them."""

import base64
import io
from html.parser import HTMLParser

from PIL import Image

NAMES = [
    "a b.jpg",
    "\"double\" 'single' & co.jpg",
    "<script>alert(1)</script>.png",
    '"><img src=x onerror=alert(1)>.png',
    "котёнок/猫 🐈/قطة.jpg",
    "caf\udce9.jpg",
    "\ud800 half.jpg",
    "line\nend\r\t\x1b[31m.jpg",
    "{title} %s &amp; \\n.jpg",
    "=1+1,;.jpg",
]
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Elements, texts and pictures of a page; refuses tags that are not closed in order."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_bytes().decode("utf-8")
        self.open, self.elements, self.texts = [], [], []
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag, **attrs):
        return [
            found for name, found in self.elements if name == tag and attrs.items() <= found.items()
        ]

    def text(self, tag):
        return [text for inside, text in self.texts if inside == tag]

    def images(self):
        """Decoded pictures, in order."""
        pictures = []
        for element in self.all("img"):
            head, data = element["src"].split(",")
            assert head == "data:image/jpeg;base64"
            with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
                picture.load()
                assert picture.format == "JPEG"
                assert (str(picture.width), str(picture.height)) == (
                    element["width"],
                    element["height"],
                )
                pictures.append(picture.convert("RGB"))
        return pictures
