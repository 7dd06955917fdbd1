"""What each setting means: the docstrings of the schema, read from its source."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields

from ibot.config.schema import Config


def meanings() -> dict[str, str]:
    """section.key -> its docstring, one paragraph."""
    return {
        f"{section.name}.{name}": text
        for section in fields(Config)
        if isinstance(kind := section.default_factory, type)
        for name, text in _documented(kind).items()
    }


def _documented(kind: type) -> dict[str, str]:
    """Attributes of a class that are followed by a string."""
    (node,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for statement, after in zip(node.body, node.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            constant = after.value if isinstance(after, ast.Expr) else None
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                found[statement.target.id] = " ".join(constant.value.split())
    return found
