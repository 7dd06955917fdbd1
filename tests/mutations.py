"""Single-line mutations of a Python file, by its syntax tree; see `mutants.py`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

OPERATORS = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "%"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitXor: ("^", "|"),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
}
ORDERED = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult, ast.LShift, ast.RShift)
FUNCTIONS = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "sum": "mean",
    "mean": "sum",
    "argmax": "argmin",
    "argmin": "argmax",
    "floor": "ceil",
    "ceil": "floor",
    "sqrt": "square",
    "mul_": "add_",
    "sorted": "list",
}
SYMMETRIC = {"transpose", "max", "min", "minimum", "maximum", "equal", "isclose"}
"""Calls whose arguments may change places."""
WORDS = {"print", "message", "warn", "info", "debug", "Verdict", "TypeVar", "add_argument"}
"""Calls that speak to people, or are of no weight: left alone, as is whatever is raised."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file."""

    file: str
    """Below src/ibot."""
    line: int
    kind: str
    before: str
    """The changed line without its indentation; with `after` and `file` it names the mutant."""
    after: str
    source: bytes
    """The whole changed file."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What names the mutant while the lines around it come and go."""
        return self.file, self.before, self.after


def mutants_of(path: Path) -> list[Mutant]:
    """All mutations of a file that are Python, in the order of the file."""
    source = path.read_bytes()
    found = {}
    for start, end, text, kind in sorted(_Finder(source).edits()):
        changed = source[:start] + text.encode() + source[end:]
        try:
            compile(changed, str(path), "exec")
        except SyntaxError:
            continue
        first, last = source.rfind(b"\n", 0, start) + 1, source.find(b"\n", start)
        before = source[first:last].decode()
        rest = changed[start + len(text.encode()) :].split(b"\n", 1)[0].decode()
        after = source[first:start].decode() + text.split("\n")[0] + ("" if "\n" in text else rest)
        mutant = Mutant(
            path.as_posix().rpartition("src/ibot/")[2],
            source.count(b"\n", 0, start) + 1,
            kind,
            before.strip(),
            after.strip(),
            changed,
        )
        if before != after:
            found.setdefault((mutant.line, mutant.before, mutant.after), mutant)
    return list(found.values())


Edit = tuple[int, int, str, str]
"""Start and end in bytes, the new text, and the kind of the mutation."""


class _Finder:
    """Walks a tree and proposes edits."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.tree = ast.parse(source)
        self.offsets = [0]
        for line in source.split(b"\n"):
            self.offsets.append(self.offsets[-1] + len(line) + 1)
        self.imported = {
            (alias.asname or alias.name).split(".")[0]
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        nodes = list(ast.walk(self.tree))
        self.called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        self.after = {
            id(node.value): node.attr for node in nodes if isinstance(node, ast.Attribute)
        }
        self.owner = {
            id(node): owner.name
            for owner in ast.walk(self.tree)
            if isinstance(owner, ast.ClassDef)
            for node in ast.walk(owner)
        }
        self.attributes: dict[tuple[str, str, str], set[str]] = {}
        self.bases: dict[str, set[str]] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and id(node) not in self.called:
                base = ast.unparse(node.value)
                if base not in self.imported:
                    self.attributes.setdefault(self._place(node), set()).add(node.attr)
                    self.bases.setdefault(node.attr, set()).add(base)

    def _place(self, node: ast.Attribute) -> tuple[str, str, str]:
        """Where other attributes could stand: class (of `self`), object, and what follows."""
        base = ast.unparse(node.value)
        owner = self.owner.get(id(node), "") if base.startswith("self") else ""
        return owner, base, self.after.get(id(node), "")

    def edits(self) -> Iterator[Edit]:
        """All edits of the file."""
        yield from self._visit(self.tree, ())

    def _visit(self, node: ast.AST, local: tuple[str, ...]) -> Iterator[Edit]:
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
            return
        name = _name(node.func) if isinstance(node, ast.Call) else ""
        if name in WORDS or name.endswith("Error"):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Assign) and _name(node.targets[0]) == "__all__":
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            local = tuple(dict.fromkeys([*local, *_locals(node)]))
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is not None:
            yield from method(node, local)
        skipped = {"annotation", "returns", "decorator_list", "type_params"}
        if isinstance(node, ast.ClassDef):
            skipped |= {"bases", "keywords"}
        for field, value in ast.iter_fields(node):
            if field not in skipped:
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        yield from self._visit(child, local)

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self.offsets[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = self.offsets[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return start, end

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self.source[start:end].decode()

    def _between(self, left: ast.AST, right: ast.AST, operator: ast.AST) -> Iterator[Edit]:
        """The operator between two operands, swapped."""
        if type(operator) not in OPERATORS:
            return
        old, new = OPERATORS[type(operator)]
        start, end = self._span(left)[1], self._span(right)[0]
        place = re.search(re.escape(old), self.source[start:end].decode())
        if place and b"#" not in self.source[start:end]:
            yield start + place.start(), start + place.end(), new, "operator"

    def _swap(self, left: ast.AST, right: ast.AST, kind: str) -> Iterator[Edit]:
        (start, middle), (later, end) = self._span(left), self._span(right)
        if self._text(left) != self._text(right):
            between = self.source[middle:later].decode()
            yield start, end, self._text(right) + between + self._text(left), kind

    def _binop(self, node: ast.BinOp, local: object) -> Iterator[Edit]:
        if any(isinstance(n, ast.JoinedStr) or _is_text(n) for n in (node.left, node.right)):
            return  # a path or a message
        yield from self._between(node.left, node.right, node.op)
        symbol = OPERATORS.get(type(node.op), ("@", ""))[0]
        if isinstance(node.op, ORDERED) and not isinstance(node.right, ast.Constant):
            swapped = f"({self._text(node.right)}) {symbol} ({self._text(node.left)})"
            yield *self._span(node), swapped, "operands swapped"

    def _boolop(self, node: ast.BoolOp, local: object) -> Iterator[Edit]:
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from self._between(left, right, node.op)
            yield self._span(left)[0], self._span(right)[0], "", "condition dropped"
            yield self._span(left)[1], self._span(right)[1], "", "condition dropped"

    def _compare(self, node: ast.Compare, local: object) -> Iterator[Edit]:
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            yield from self._between(left, right, operator)
            if _is_text(right):
                yield from self._other_string(right)

    def _unaryop(self, node: ast.UnaryOp, local: object) -> Iterator[Edit]:
        start = self._span(node)[0]
        if isinstance(node.op, ast.Not):
            yield start, start + 4, "", "not removed"
        elif isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
            yield start, start + 1, "", "minus removed"

    def _negated(self, test: ast.expr) -> Iterator[Edit]:
        equality = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq | ast.NotEq)
        if not (equality or isinstance(test, ast.UnaryOp)):
            yield *self._span(test), f"not ({self._text(test)})", "condition negated"

    def _if(self, node: ast.If, local: object) -> Iterator[Edit]:
        yield from self._negated(node.test)

    def _while(self, node: ast.While, local: object) -> Iterator[Edit]:
        if not isinstance(node.test, ast.Constant):
            yield from self._negated(node.test)

    def _ifexp(self, node: ast.IfExp, local: object) -> Iterator[Edit]:
        yield from self._negated(node.test)

    def _comprehension(self, node: ast.comprehension, local: object) -> Iterator[Edit]:
        for test in node.ifs:
            yield from self._negated(test)

    def _constant(self, node: ast.Constant, local: object) -> Iterator[Edit]:
        value = node.value
        if isinstance(value, bool):
            yield *self._span(node), str(not value), "constant"
        elif isinstance(value, int) and abs(value) >= 20:
            yield *self._span(node), str(value * 2), "constant"
        elif isinstance(value, int):
            yield *self._span(node), str(value + 1), "constant"
            yield *self._span(node), str(value - 1), "constant"
        elif isinstance(value, float):
            yield *self._span(node), repr(value * 2 or 1.0), "constant"

    def _other_string(self, node: ast.Constant) -> Iterator[Edit]:
        """Another key or choice that the file uses."""
        for other in sorted(_keys(self.tree) - {node.value}):
            yield *self._span(node), f'"{other}"', "string swapped"

    def _subscript(self, node: ast.Subscript, local: object) -> Iterator[Edit]:
        if _is_text(node.slice):
            yield from self._other_string(node.slice)

    def _slice(self, node: ast.Slice, local: object) -> Iterator[Edit]:
        for bound in (node.lower, node.upper):
            if bound is not None and not isinstance(bound, ast.Constant):
                yield *self._span(bound), f"({self._text(bound)}) + 1", "slice"

    def _call(self, node: ast.Call, local: object) -> Iterator[Edit]:
        name = _name(node.func)
        for keyword in node.keywords:
            if keyword.arg is not None:
                start, end = self._span(keyword)
                comma = re.match(rb"\s*,[ ]?", self.source[end:])
                yield start, end + (comma.end() if comma else 0), "", "argument dropped"
        for left, right in zip(node.args, node.args[1:], strict=False):
            if name in SYMMETRIC:
                break
            yield from self._swap(left, right, "arguments swapped")
        if name == "range":
            yield *self._span(node.args[-1]), f"({self._text(node.args[-1])}) - 1", "range"
        if name in FUNCTIONS:
            end = self._span(node.func)[1]
            yield end - len(name), end, FUNCTIONS[name], "function"

    def _expr(self, node: ast.Expr, local: object) -> Iterator[Edit]:
        if isinstance(node.value, ast.Call) and _name(node.value.func) not in WORDS:
            yield *self._span(node), "pass", "statement removed"

    def _augassign(self, node: ast.AugAssign, local: object) -> Iterator[Edit]:
        yield *self._span(node), "pass", "statement removed"

    def _assign(self, node: ast.Assign, local: object) -> Iterator[Edit]:
        if isinstance(node.targets[0], ast.Attribute | ast.Subscript):
            yield *self._span(node), "pass", "statement removed"

    def _return(self, node: ast.Return, local: tuple[str, ...]) -> Iterator[Edit]:
        if isinstance(node.value, ast.Name):
            for other in local:
                if other != node.value.id and other not in ("self", "cls"):
                    yield *self._span(node.value), other, "another returned"

    def _attribute(self, node: ast.Attribute, local: tuple[str, ...]) -> Iterator[Edit]:
        if id(node) in self.called or not isinstance(node.ctx, ast.Load):
            return
        base = ast.unparse(node.value)
        end = self._span(node)[1]
        for other in sorted(self.attributes.get(self._place(node), ())):
            if other != node.attr:
                yield end - len(node.attr), end, other, "attribute"
        for other in sorted(self.bases.get(node.attr, ())):
            if other != base and other in local and "self" not in (base, other):
                yield *self._span(node.value), other, "object"


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _locals(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterable[str]:
    """Parameters and assigned names of a function."""
    arguments = function.args
    yield from (a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _keys(tree: ast.AST) -> set[str]:
    """Strings that the file uses as keys or compares with."""
    keys = set()
    for node in ast.walk(tree):
        found = [node.slice] if isinstance(node, ast.Subscript) else []
        found += node.comparators if isinstance(node, ast.Compare) else []
        keys |= {node.value for node in found if _is_text(node)}
    return keys
