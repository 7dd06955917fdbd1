"""docs/paper_to_code.md against the tree: what it names exists, and nothing of the paper is left
out.
"""

import ast
import re
from pathlib import Path

import pytest

from ibot.cli.main import build_parser
from ibot.config.override import apply
from ibot.config.schema import Config
from ibot.eval.registry import EVALUATIONS
from ibot.recipes import RECIPES
from ibot.recipes.ablations import ABLATIONS
from ibot.show.pictures import PICTURES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "paper_to_code.md"
ROWS = [
    [cell.strip() for cell in line.strip("| ").split("|")]
    for line in PAGE.read_text().splitlines()
    if line.startswith("|") and "---" not in line
]
NAMED = sorted(set(re.findall(r"`([^`]+)`", PAGE.read_text())))
TABLES, FIGURES, EQUATIONS = range(1, 21), range(1, 20), range(1, 4)


@pytest.mark.parametrize(
    ("kind", "wanted"), [("table", TABLES), ("figure", FIGURES), ("equation", EQUATIONS)]
)
def test_everything_with_a_number_has_one_row(kind, wanted):
    found = []
    for first, *_ in ROWS:
        if match := re.fullmatch(rf"{kind}s? ([\d, ]+)", first):
            found += [int(number) for number in match[1].split(",")]
    assert sorted(found) == list(wanted)


@pytest.mark.parametrize("appendix", "ABCDEFG")
def test_every_appendix_has_a_row(appendix):
    assert any(re.match(rf"appendix {appendix}\b", row[0]) for row in ROWS)


def test_every_row_says_where_or_not_yet_with_the_road_map_item():
    items = re.findall(r"^(\d+)\. ", (ROOT / "docs" / "roadmap.md").read_text(), re.MULTILINE)
    for row in ROWS:
        where = row[-1]
        if where.startswith("not yet"):
            assert re.fullmatch(r"not yet: road map, item (\d+)", where)[1] in items, row
        else:
            assert "`" in where or where.startswith(("as ", "where")), row


def defined(tree: ast.Module, dotted: str) -> bool:
    """Whether a module defines a name, or a class in it a member."""
    body = tree.body
    for name in dotted.split("."):
        nodes = {
            node.name: node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        assigned = {
            target.id
            for node in body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        if name not in nodes and name not in assigned:
            return False
        body = nodes[name].body if name in nodes else []
    return True


def place_exists(text: str) -> bool:
    path, _, name = text.partition(": ")
    file = ROOT / path if (ROOT / path).exists() else ROOT / "src" / "ibot" / path
    if not file.exists():
        return False
    return not name or defined(ast.parse(file.read_text()), name)


def command_exists(text: str) -> bool:
    command, *rest = text.split()[1:]
    if command == "eval":
        return rest[0] in EVALUATIONS
    if command == "show":
        return rest[0] in PICTURES
    if command == "ablate":
        return not rest or rest[0] in ABLATIONS
    if command == "pretrain":
        return rest[0] in RECIPES and set(rest[1:]) <= {"--epochs"}
    return not rest and command in build_parser().format_help()


def setting_exists(text: str) -> bool:
    if "=" in text:
        return apply(Config(), [text]) is not None
    section, _, key = text.partition(".")
    protocols = {
        field for protocol in EVALUATIONS.values() for field in protocol.settings.__slots__
    }
    return hasattr(getattr(Config(), section, None), key) if key else text in protocols


@pytest.mark.parametrize("text", NAMED)
def test_what_the_page_names_exists(text):
    if text == "src/ibot":
        return
    if ".py" in text or text.endswith(".md"):
        assert place_exists(text)
    else:
        assert command_exists(text) if text.startswith("ibot ") else setting_exists(text)


# Typed from the paper's text: k-NN and linear accuracy, row by row.
PUBLISHED = {
    "tokenizer": [
        (69.1, 74.2),
        (69.0, 73.8),
        (67.9, 72.5),
        (9.5, 29.8),
        (44.3, 60.0),
        (16.4, 37.2),
        (19.2, 40.1),
    ],
    "heads": [(68.9, 73.9), (68.0, 73.7), (None, None), (68.4, 73.7), (69.1, 74.2)],
    "dense": [(67.9, 72.5), (67.1, 72.5), (68.5, 73.4), (69.1, 74.2)],
    "center": [(68.7, 74.0), (68.8, 73.8), (68.9, 73.8), (68.5, 73.5), (68.7, 73.9), (69.1, 74.2)],
    "loss_ratio": [(68.7, 73.8), (69.1, 74.2), (69.4, 74.1)],
    "prototypes": [(68.3, 74.5), (69.1, 74.2), (68.8, 74.0)],
    "labels": [(None, None), (None, None), (69.4, 73.9), (69.1, 74.2), (67.9, 72.5)],
    "crop_scale": [(74.0, None), (74.6, None), (74.3, None)],
    "crop_scale_b16": [(70.0, None), (70.4, None), (70.1, None)],
    "mask_shape": [(77.1, 79.5), (77.3, 79.8)],
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_show_the_figures_of_the_paper(name):
    rows = ABLATIONS[name].rows
    assert [(row.knn, row.linear) for row in rows] == PUBLISHED.get(
        name, [(None, None)] * len(rows)
    )
