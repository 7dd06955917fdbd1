"""What each setting means: the docstrings of the schema, read from its source."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields

from ibot.config import schema


def meanings() -> dict[str, str]:
    """section.key -> its docstring, one paragraph."""
    tree = ast.parse(inspect.getsource(schema))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    sections = {field.name: str(field.type) for field in fields(schema.Config)}
    return {
        f"{section}.{name}": text
        for section, kind in sections.items()
        if kind in classes
        for name, text in _documented(classes[kind]).items()
    }


def _documented(node: ast.ClassDef) -> dict[str, str]:
    """Attributes of a class that are followed by a string."""
    found = {}
    for statement, after in zip(node.body, node.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            constant = after.value if isinstance(after, ast.Expr) else None
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                found[statement.target.id] = " ".join(constant.value.split())
    return found
