"""Compiles a changed test with witnesses in it: was an assertion executed, and could it have failed?

Runs inside the sandbox; standard library only. Two forms of one test:

- ``real``: the test as it is, a mark behind each placed assertion, a watch around the body that sees what leaves it.
- ``mutated``: before each placed assertion, the assertion is tried with the value it inspects rebound to others. An
  assertion that holds whatever the value is (``assert x == x``, ``assert isinstance(x, object)``) says nothing.

Which value an assertion inspects: the first operand of a comparison that is not constant, the operand of ``not``, what
a ``len`` or ``isinstance`` looks at, the first argument of ``assertEqual`` and its like that is not constant, the
callable of ``assertRaises``, the object itself of ``mock.assert_called()`` and of its like with constant arguments.
Equal expressions are rebound together.
An assertion that inspects none, or only what Python itself has, asserts nothing, like ``assert True``.
"""

from __future__ import annotations

import ast
import builtins
import warnings
from collections.abc import Sequence
from types import CodeType
from typing import Any

_VALUE = "_distillctl_value"
_LOOKS_AT_ARGUMENT = {"isinstance", "issubclass", "hasattr", "callable", "len"}
_EXPECTS_EXCEPTION = ("raises", "warns")
_OF_MOCKS = (
    "assert_called",
    "assert_any_call",
    "assert_has_calls",
    "assert_awaited",
    "assert_any_await",
    "assert_has_awaits",
)
Span = tuple[tuple[int, int], tuple[int, int]]


def parse(source: str) -> ast.Module:
    """The syntax tree of source text. Raises SyntaxError, ValueError, RecursionError or MemoryError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes, comparisons with literals: other people's code
        return ast.parse(source)


def placed_assertions(tree: ast.Module, spans: Sequence[Span]) -> list[ast.stmt]:
    """Assertion statements that lie within the spans, at any depth, in order of appearance."""
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and is_assertion(node) and any(_inside(node, span) for span in spans)
    ]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def _inside(node: ast.stmt, span: Span) -> bool:
    start, end = span
    return start <= (node.lineno, node.col_offset) and (node.end_lineno or 0, node.end_col_offset or 0) <= end


def is_assertion(node: ast.stmt) -> bool:
    """An ``assert``, a call named ``assert...`` (also in a chain), or ``with self.assertRaises(...)``."""
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.With):
        return any(_is_assertion_call(item.context_expr) for item in node.items)
    return isinstance(node, ast.Expr) and _is_assertion_call(node.value)


def _is_assertion_call(node: ast.expr) -> bool:
    while isinstance(node, ast.Await | ast.Call | ast.Attribute):
        if isinstance(node, ast.Call):
            if last_name(node.func).startswith("assert"):
                return True
            node = node.func
        else:
            node = node.value
    return False


def last_name(node: ast.expr) -> str:
    """``c`` of ``a.b.c`` or ``c``; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def inspected(statement: ast.stmt) -> ast.expr | None:
    """The expression whose value an assertion inspects; None where it inspects none."""
    if isinstance(statement, ast.Assert):
        return _inspected_truth(statement.test)
    if isinstance(statement, ast.With):  # what is inspected is the body
        return next((item.context_expr for item in statement.items if _is_assertion_call(item.context_expr)), None)
    call: ast.expr = statement.value if isinstance(statement, ast.Expr) else ast.Constant(None)
    if isinstance(call, ast.Await):
        call = call.value
    return _inspected_argument(call) if isinstance(call, ast.Call) else None


def _inspected_truth(node: ast.expr) -> ast.expr | None:
    """Of an expression whose truth is asserted."""
    if isinstance(node, ast.Compare):
        return _first_varying([node.left, *node.comparators])
    if isinstance(node, ast.BoolOp):
        return next((found for value in node.values if (found := _inspected_truth(value)) is not None), None)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        # No value is known to be what it must not be (`not isinstance(x, T)`): there the answer is rebound.
        return node.operand if _looks_at_argument(node.operand) else _inspected_truth(node.operand)
    if isinstance(node, ast.Tuple | ast.List | ast.Set):  # true whatever is in it
        return next((found for value in node.elts if (found := _inspected_truth(value)) is not None), None)
    if isinstance(node, ast.Lambda | ast.GeneratorExp | ast.JoinedStr | ast.Dict):
        return None
    if isinstance(node, ast.Call) and _looks_at_argument(node):
        return _first_varying(node.args[:1])
    return node if _varies(node) else None


def _looks_at_argument(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _LOOKS_AT_ARGUMENT


def _inspected_argument(call: ast.Call) -> ast.expr | None:
    """Of a call that is an assertion by its name."""
    name = last_name(call.func).lower()
    arguments = _arguments(call)
    if any(word in name for word in _EXPECTS_EXCEPTION):
        return arguments[1] if len(arguments) > 1 else None
    if not arguments:
        return call.func.value if isinstance(call.func, ast.Attribute) else None
    if name == "assertfalse":
        return _inspected_truth(ast.UnaryOp(ast.Not(), arguments[0]))  # as of `assert not`
    if name in ("asserttrue", "assert_"):
        return _inspected_truth(arguments[0])
    found = _first_varying(arguments)
    if found is None and name.startswith(_OF_MOCKS) and isinstance(call.func, ast.Attribute):
        return call.func.value
    return found


def _arguments(call: ast.Call) -> list[ast.expr]:
    """Keywords as if they were in their order, as they mostly are."""
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _first_varying(nodes: Sequence[ast.expr]) -> ast.expr | None:
    plain = [node.value if isinstance(node, ast.Starred) else node for node in nodes]
    return next((node for node in plain if _varies(node)), None)


def _varies(node: ast.expr) -> bool:
    """Whether a value comes from the test or its module: it has a name that is not Python's own."""
    if isinstance(node, ast.Lambda):
        return False
    return any(isinstance(part, ast.Name) and not hasattr(builtins, part.id) for part in ast.walk(node))


def add_witnesses(tree: ast.Module, name: str, spans: Sequence[Span], witness: str, *, mutated: bool) -> int:
    """Puts the witnesses into the function of that (dotted) name, which finds them as the global name ``witness``.

    Returns how many of the placed assertions inspect a value.
    """
    counted = [node for node in placed_assertions(tree, spans) if inspected(node) is not None]
    numbers = {id(node): number for number, node in enumerate(counted)}
    writer = _Witnessing(numbers, witness, mutated)
    writer.visit(tree)
    function = _function(tree, name)
    watch = ast.With(items=[ast.withitem(writer.call("watch"))], body=function.body)
    first = function.body[0]
    function.body = [ast.copy_location(watch, first)]
    ast.fix_missing_locations(tree)
    return len(counted)


def _function(tree: ast.Module, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    body: Sequence[ast.stmt] = tree.body
    *classes, last = name.split(".")
    for part in classes:
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == part)
    return next(n for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name == last)


class _Witnessing(ast.NodeTransformer):
    def __init__(self, numbers: dict[int, int], witness: str, mutated: bool) -> None:
        self._numbers = numbers
        self._witness = witness
        self._mutated = mutated

    def call(self, method: str, *arguments: ast.expr) -> ast.Call:
        function = ast.Attribute(ast.Name(self._witness, ast.Load()), method, ast.Load())
        return ast.Call(function, list(arguments), [])

    def visit(self, node: ast.AST) -> Any:
        number = self._numbers.get(id(node))
        self.generic_visit(node)
        if number is None or not isinstance(node, ast.stmt):
            return node
        before = [self._attempts(node, number)] if self._mutated else []
        mark = ast.Expr(self.call("executed", ast.Constant(number)))
        return [ast.copy_location(new, node) for new in (*before, node, mark)]

    def _attempts(self, statement: ast.stmt, number: int) -> ast.stmt:
        """The statement with the inspected value rebound to one after the other that the witness names."""
        value = inspected(statement)
        assert value is not None
        attempt: ast.stmt
        if isinstance(statement, ast.With):
            attempt, others = ast.With(items=statement.items, body=[ast.Pass()]), self.call("once")
        else:
            attempt = _Rebinding(ast.dump(value)).visit(parse(ast.unparse(statement)).body[0])
            others = self.call("others", value, *self._denied(statement, value))
        guarded = ast.With(items=[ast.withitem(self.call("attempt", ast.Constant(number)))], body=[attempt])
        return ast.For(target=ast.Name(_VALUE, ast.Store()), iter=others, body=[guarded], orelse=[])

    def _denied(self, statement: ast.stmt, value: ast.expr) -> list[ast.expr]:
        """What a value must not be, by ``!=``, ``is not`` or ``not in``: only that would make the assertion fail."""
        found = _denial(statement, value)
        if found is None:
            return []
        left, denies_members, right = found
        other = right if value is left else left
        if not denies_members:
            return [other]
        if value is left:
            return [ast.Starred(self.call("members", other), ast.Load())]
        return [other, ast.List([other], ast.Load())]


_DENYING = dict.fromkeys(("assertnotequal", "assertnotequals", "assertnotalmostequal", "assertisnot"), False)
_DENYING["assertnotin"] = True
"""Methods of unittest that deny their second argument of the first; whether as a container of it.

What ``assertNotRegex`` and ``assertNotIsInstance`` deny is no value that could be put there.
"""


def _denial(statement: ast.stmt, value: ast.expr) -> tuple[ast.expr, bool, ast.expr] | None:
    """(left, whether right is a container, right) of what an assertion denies of the value it inspects."""
    if isinstance(statement, ast.Assert):
        return _denied_truth(statement.test, value, negated=False)
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call):
        return None
    name, arguments = last_name(call.func).lower(), _arguments(call)
    if name in _DENYING and len(arguments) > 1:
        return arguments[0], _DENYING[name], arguments[1]
    if name in ("asserttrue", "assert_", "assertfalse") and arguments:
        return _denied_truth(arguments[0], value, negated=name == "assertfalse")
    return None


def _denied_truth(node: ast.expr, value: ast.expr, *, negated: bool) -> tuple[ast.expr, bool, ast.expr] | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _denied_truth(node.operand, value, negated=not negated)
    if isinstance(node, ast.BoolOp):
        part = next((part for part in node.values if _inspected_truth(part) is value), None)
        return None if part is None else _denied_truth(part, value, negated=negated)
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        return None
    denying = (ast.Eq, ast.Is, ast.In) if negated else (ast.NotEq, ast.IsNot, ast.NotIn)
    if not isinstance(node.ops[0], denying):
        return None
    return node.left, isinstance(node.ops[0], ast.In | ast.NotIn), node.comparators[0]


class _Rebinding(ast.NodeTransformer):
    def __init__(self, wanted: str) -> None:
        self._wanted = wanted

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.expr) and ast.dump(node) == self._wanted:
            return ast.copy_location(ast.Name(_VALUE, ast.Load()), node)
        return self.generic_visit(node)


def code_of(tree: ast.Module, name: str, line: int, file: str, flags: int) -> CodeType:
    """The code of the function of that name and line. ``flags``: the module's ``from __future__`` imports.

    Raises SyntaxError or ValueError for what only the compiler refuses (``await`` in a plain function).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code: CodeType = compile(tree, file, "exec", flags=flags, dont_inherit=True)
    for part in name.split("."):
        code = next(const for const in code.co_consts if isinstance(const, CodeType) and const.co_name == part)
    if code.co_firstlineno != line:
        raise ValueError(f"{name} should start at line {line}. Found {code.co_firstlineno}")
    return code
