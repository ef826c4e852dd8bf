"""Find the small faults that can be made in a module: one place, one other reading of it."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

COMPARE = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: (r"not\s+in", ("in",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: (r"is\s+not", ("is",)),
}
ARITHMETIC = {
    ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: (r"\*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Pow: (r"\*\*", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: (r"\|", "&"),
}
TWINS = {"min": "max", "amin": "amax", "minimum": "maximum", "any": "all", "argmin": "argmax", "floor": "ceil"}
TWINS |= {other: name for name, other in TWINS.items()}
DROPPED = (ast.Return, ast.Raise, ast.Continue, ast.Break)


@dataclass(frozen=True)
class Mutant:
    """A module with one place changed.

    Attributes:
        file: the module's path from the root of the project, with slashes.
        line: line of the place, from 1.
        start, stop: the bytes of the file that are replaced; `stop` exclusive.
        new: what stands there instead.
        kind: what is changed, in a word or two.
    """

    file: PurePosixPath
    line: int
    start: int
    stop: int
    new: str
    kind: str

    def applied(self, source: bytes) -> bytes:
        """Return the module with the change."""
        return source[: self.start] + self.new.encode() + source[self.stop :]

    def lines(self, source: bytes) -> tuple[str, str]:
        """Return the line (or lines) of the place before and after, without the white space around them."""
        first = source.rfind(b"\n", 0, self.start) + 1
        last = source.find(b"\n", self.stop)
        last = len(source) if last < 0 else last
        after = source[first : self.start] + self.new.encode() + source[self.stop : last]
        return source[first:last].decode().strip(), after.decode().strip()


def mutants_of(file: PurePosixPath, source: bytes) -> list[Mutant]:
    """Return what can be changed in a module, in the order of the places. `reads_otherwise` says if that is Python.

    Left alone are annotations, docstrings, assertions, formatted strings and the messages of errors: they do not
    compute anything, or not under Python's own rules.
    """
    finder = _Finder(file, source)
    finder.visit(ast.parse(source))
    found = {(one.start, one.stop, one.new): one for one in finder.found}
    return [found[place] for place in sorted(found)]


def reads_otherwise(mutant: Mutant, source: bytes) -> bool:
    """Return whether the module with the mutant is valid Python and not the same program."""
    try:
        return ast.dump(ast.parse(mutant.applied(source))) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


class _Finder(ast.NodeVisitor):
    def __init__(self, file: PurePosixPath, source: bytes) -> None:
        self.file, self.source, self.found = file, source, []
        self.starts = [0, *(at + 1 for at, byte in enumerate(source) if byte == 10)]

    def visit(self, node: ast.AST) -> None:
        for mutant in self._of(node):
            self.found.append(mutant)
        for child in _children(node):
            self.visit(child)

    def _of(self, node: ast.AST) -> Iterator[Mutant]:
        if isinstance(node, ast.Compare):
            yield from self._comparisons(node)
        elif isinstance(node, ast.BinOp | ast.AugAssign):
            yield from self._arithmetic(node)
        elif isinstance(node, ast.BoolOp):
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from self._between(left, right, old, (new,), "and/or")
        elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
            start, stop = self._start(node), self._start(node.operand)
            yield self._made(node, start, stop, "", f"without {self.source[start:stop].decode().strip()}")
        elif isinstance(node, ast.Constant):
            yield from self._constants(node)
        elif isinstance(node, ast.Call):
            yield from self._twins(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield self._made(node, self._start(node), self._stop(node), "pass", "dropped call")
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            yield from self._conditions(node)

    def _comparisons(self, node: ast.Compare) -> Iterator[Mutant]:
        sides = [node.left, *node.comparators]
        for op, left, right in zip(node.ops, sides, node.comparators, strict=False):
            old, others = COMPARE[type(op)]
            yield from self._between(left, right, old, others, "comparison")

    def _arithmetic(self, node: ast.BinOp | ast.AugAssign) -> Iterator[Mutant]:
        left, right = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
        if type(node.op) not in ARITHMETIC or any(_is_text(side) for side in (left, right)):
            return
        old, new = ARITHMETIC[type(node.op)]
        yield from self._between(left, right, old, (new,), "arithmetic")

    def _constants(self, node: ast.Constant) -> Iterator[Mutant]:
        value = node.value
        others: tuple[object, ...] = ()
        if isinstance(value, bool):
            others = (not value,)
        elif isinstance(value, int):
            others = (value + 1, value - 1) if value else (1,)
        elif isinstance(value, float):
            others = (value * 2,) if value else (1.0,)
        for other in others:
            yield self._made(node, self._start(node), self._stop(node), repr(other), "constant")

    def _twins(self, node: ast.Call) -> Iterator[Mutant]:
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in TWINS:
            stop = self._stop(node.func)
            yield self._made(node.func, stop - len(name), stop, TWINS[name], "twin")
        for keyword in node.keywords:
            if name == "clamp" and keyword.arg in TWINS:
                start = self._start(keyword)
                yield self._made(keyword, start, start + len(keyword.arg), TWINS[keyword.arg], "twin")

    def _conditions(self, node: ast.If | ast.IfExp | ast.While) -> Iterator[Mutant]:
        start, stop = self._start(node.test), self._stop(node.test)
        if not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant | ast.NamedExpr):
            yield self._made(node.test, start, stop, f"not ({self.source[start:stop].decode()})", "condition")
        if isinstance(node, ast.If):
            for last in (node.body[-1:], node.orelse[-1:]):
                if last and isinstance(last[0], DROPPED):
                    yield self._made(last[0], self._start(last[0]), self._stop(last[0]), "pass", "dropped exit")

    def _between(self, left: ast.AST, right: ast.AST, old: str, others: tuple[str, ...], kind: str) -> Iterator[Mutant]:
        start, stop = self._stop(left), self._start(right)
        pattern = rf"\b{old}\b" if old[0].isalpha() else old
        match = re.search(pattern.encode(), self.source[start:stop])
        if match is None:
            return
        line = left.end_lineno + self.source[start : start + match.start()].count(b"\n")
        for new in others:
            yield Mutant(self.file, line, start + match.start(), start + match.end(), new, kind)

    def _made(self, node: ast.AST, start: int, stop: int, new: str, kind: str) -> Mutant:
        return Mutant(self.file, node.lineno, start, stop, new, kind)

    def _start(self, node: ast.AST) -> int:
        return self.starts[node.lineno - 1] + node.col_offset

    def _stop(self, node: ast.AST) -> int:
        return self.starts[node.end_lineno - 1] + node.end_col_offset


def _children(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.JoinedStr | ast.Assert | ast.Raise | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "cast"):
        return
    if isinstance(node, ast.keyword) and node.arg == "strict":  # of `zip`: an assertion too
        return
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list"):
            yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, ast.AST))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
