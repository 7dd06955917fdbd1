"""A folder of images, a network that tells them apart, and what a search of them gives."""

import base64
import csv
import io
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from ibot.cli.main import main
from ibot.config.schema import ModelConfig
from ibot.data.scenes import write_folder
from ibot.models.backbone import build_backbone
from ibot.weights.export import export_backbone
from ibot.weights.read import KeyReport, Loaded

PATCH, GRID = 8, 4


class Page(HTMLParser):
    """Headings, captions, pictures and squares of a page."""

    def __init__(self, path):
        super().__init__()
        self.headings, self.pictures, self.squares, self.captions, self.queries = [], [], [], [], 0
        self.texts, self.inside, self.paragraphs = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.inside

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "img":
            content = base64.b64decode(given["src"].removeprefix("data:image/jpeg;base64,"))
            self.pictures.append(np.asarray(Image.open(io.BytesIO(content))))
        elif tag != "meta":
            self.inside.append(tag)
            self.texts.append("")
        if given.get("class") == "square":
            sides = (part.split(":") for part in given["style"].split(";"))
            self.squares.append(
                {name: float(value.removesuffix("%")) / 100 for name, value in sides}
            )
        self.queries += given.get("class") == "query"

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag
        text = self.texts.pop()
        if self.texts:
            self.texts[-1] += text
        {"h2": self.headings, "figcaption": self.captions, "p": self.paragraphs}.get(
            tag, []
        ).append(text)

    def handle_data(self, data):
        if self.texts:
            self.texts[-1] += data


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A small network with large random weights: it tells any two images apart."""
    torch.manual_seed(0)
    config = ModelConfig(kind="vit", patch=PATCH, width=32, depth=2, heads=2)
    backbone = build_backbone(config, (PATCH * GRID, PATCH * GRID)).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    file = tmp_path_factory.mktemp("weights") / "net.safetensors"
    export_backbone(
        Loaded(backbone, config, (PATCH * GRID, PATCH * GRID), KeyReport()), "safetensors", file
    )
    return file


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """30 gray scenes in class folders, a copy of one, and noise in red with its mirror image."""
    root = tmp_path_factory.mktemp("scenes")
    write_folder(root, train=30, val=10)
    data = root / "train"
    shutil.copy(data / "car" / "00001.png", data / "tree" / "copy.png")
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    noise[..., 0], noise[..., 1] = 255, 0
    Image.fromarray(noise).save(data / "boat" / "noise.png")
    Image.fromarray(noise[:, ::-1]).save(data / "fish" / "mirrored.png")
    return data


@pytest.fixture
def find(weights, tmp_path, monkeypatch, capsys):
    """Run the command in a folder of its own: its output, the rows of the table, and the page."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, out="found"):
        places = ["--cache", tmp_path / "cache", "--out", out]
        given = ["search", weights, *arguments, "--device", "cpu", *places]
        assert main(list(map(str, given))) == 0
        with (tmp_path / out / "search.csv").open(
            newline="", encoding="utf-8", errors="surrogateescape"
        ) as file:
            rows = list(csv.DictReader(file))
        return capsys.readouterr(), rows, Page(tmp_path / out / "search.html")

    return run


def of(rows, kind, query=None):
    return [row for row in rows if row["kind"] == kind and query in (None, row["group_or_query"])]
