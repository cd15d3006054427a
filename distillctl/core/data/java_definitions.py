"""Which Java method a test is about: by the name of its class, then by what it calls."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distillctl.core.data.found_tests import Call, with_line_feeds
from distillctl.core.data.java_parser import COMMENTS, java_parser
from distillctl.core.data.java_tests import TYPES, Member, find_members, name_of, source_of, text_of
from distillctl.core.data.source_files import PackageFiles, read_source, shared_start

# Only a test named after them is about these: every type has them, and frameworks test themselves with the others.
_SELDOM_FOCAL = re.compile(r"(toString|equals|hashCode|getClass|fail)$|assert")
PARENTS = 4  # superclasses that are looked into for a method that a class inherits

_BEFORE_NAME = re.compile(r"^(Test|IT)(?=[A-Z0-9_])")
_AFTER_NAME = re.compile(r"(?<=\w)(UnitTests?|IntegrationTests?|Tests?|TestCase|ITCase|IT)$")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@dataclass(frozen=True, slots=True)
class Method:
    """A method or constructor: how many parameters it takes (the last one any number), and its source."""

    parameters: int
    is_variable: bool
    source: str

    def takes(self, arguments: int) -> bool:
        """Can it be called with so many arguments?"""
        return arguments >= self.parameters - 1 if self.is_variable else arguments == self.parameters


@dataclass(slots=True)
class SourceFile:
    """What a file declares: methods by name, in order (a constructor by its type's), and its type's superclass."""

    methods: dict[str, list[Method]] = field(default_factory=lambda: defaultdict(list))
    parent: str = ""


class JavaDefinitions:
    """The methods of a tree's own sources (tests left out), looked up by class: a file is named after its type."""

    def __init__(self, package: PackageFiles) -> None:
        self._root = package.root
        self._files: dict[str, list[str]] = defaultdict(list)
        self._read: dict[str, SourceFile] = {}
        for file in package.sources:
            self._files[file.rpartition("/")[2].removesuffix(".java")].append(file)

    def focal_method(self, test_name: str, calls: Sequence[Call], test_file: str) -> str:
        """Source of the method under test; empty where none is found.

        Of the calls that the test's class name leads to (``FooTest`` -> ``Foo``), the method that the test is named
        after, else the one called last, a constructor only where nothing else is called. Where there is no such class
        or it has none of them, the last call on a class of these sources by its name (``Foo.parse(...)``).

        Args:
            test_name: with its classes, outermost first: ``FooTest.WhenEmpty.returnsNull``.
            calls: that the reader of the input sees, in order.
            test_file: path below the root.
        """
        *owners, test = test_name.split(".")
        for owner in owners:
            for name in types_under_test(owner):
                found = self._called_of(name, calls, test_file)
                if found:
                    return _choose(found, test)
        static = [
            (call, method)
            for call in calls
            if call.receiver in self._files and (method := self._method(call.receiver, call, test_file))
        ]
        return _choose(static, test) if static else ""

    def _called_of(self, name: str, calls: Sequence[Call], test_file: str) -> list[tuple[Call, Method]]:
        if name not in self._files:
            return []
        found = []
        for call in calls:
            is_new = call.receiver == "new"
            elsewhere = not is_new and call.receiver != name and call.receiver in self._files
            if elsewhere or (is_new and call.name != name):
                continue
            method = self._method(name, call, test_file)
            if method is not None:
                found.append((call, method))
        return found

    def _method(self, name: str, call: Call, test_file: str) -> Method | None:
        """What a call means on a type, where it or a superclass declares that."""
        for _ in range(PARENTS + 1):
            if name not in self._files:
                return None
            file = self._source_file(self._nearest(name, test_file))
            overloads = file.methods.get(call.name, [])
            if overloads:
                return next((method for method in overloads if method.takes(call.arguments)), overloads[0])
            name = file.parent
        return None

    def _source_file(self, file: str) -> SourceFile:
        if file not in self._read:
            self._read[file] = _read_file(self._root / file)
        return self._read[file]

    def _nearest(self, name: str, test_file: str) -> str:
        """Of several files of that name the one in the test's package, then in its part of the tree."""
        home = test_file.split("/")[:-1]

        def nearness(file: str) -> tuple[int, int]:
            folders = file.split("/")[:-1]
            return shared_start(home[::-1], folders[::-1]), shared_start(home, folders)

        return max(self._files[name], key=nearness)


def types_under_test(test_class: str) -> Iterator[str]:
    """Names that the type under test may have, the likeliest first.

    ``StringUtilsTrimTest``: ``StringUtilsTrim``, ``StringUtils``, ``String``. ``AbstractMapTest``: ``AbstractMap``,
    then without its last words, then ``Map``. ``TestPlanTests``: ``TestPlan``, then as ``TestPlan`` itself would be.
    """
    bare = _AFTER_NAME.sub("", test_class)
    name = _AFTER_NAME.sub("", _BEFORE_NAME.sub("", test_class))
    if bare not in (test_class, name):
        yield bare
    words = _WORD.findall(name)
    if "".join(words) != name:
        yield name
        return
    for count in range(len(words), 0, -1):
        yield "".join(words[:count])
    if words[:1] == ["Abstract"]:
        yield "".join(words[1:])


def _choose(found: Sequence[tuple[Call, Method]], test: str) -> str:
    """The method the test is named after (of several the one with the longest name), else the last one called.

    Empty where only such as ``toString`` were called.
    """
    words = _words(test)
    named = [pair for pair in found if _is_run_of(_words(pair[0].name), words) and pair[0].receiver != "new"]
    if named:
        return max(named, key=lambda pair: len(pair[0].name))[1].source
    ordinary = [pair for pair in found if pair[0].receiver != "new" and not _SELDOM_FOCAL.match(pair[0].name)]
    made = [pair for pair in found if pair[0].receiver == "new"]
    return (ordinary or made)[-1][1].source if ordinary or made else ""


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]


def _is_run_of(few: list[str], many: list[str]) -> bool:
    return bool(few) and any(many[start : start + len(few)] == few for start in range(len(many) - len(few) + 1))


def _read_file(path: Path) -> SourceFile:
    raw = with_line_feeds(read_source(path)).encode("utf-8")
    root = java_parser().parse(raw).root_node
    result = SourceFile()
    for member in find_members(root):
        if not member.node.has_error:
            result.methods[member.name].append(_read_method(member, raw))
    own = next((child for child in root.named_children if child.type in TYPES and name_of(child) == path.stem), None)
    parent = None if own is None else own.child_by_field_name("superclass")
    result.parent = text_of(parent).removeprefix("extends").strip().partition("<")[0].rpartition(".")[2]
    return result


def _read_method(member: Member, raw: bytes) -> Method:
    parameters = member.node.child_by_field_name("parameters")
    if parameters is None and member.owners:  # a record's compact constructor: those of the record
        parameters = member.owners[-1].child_by_field_name("parameters")
    given = [] if parameters is None else [child for child in parameters.named_children if child.type not in COMMENTS]
    source = source_of(member.node, raw)[0].decode("utf-8")
    return Method(len(given), bool(given) and given[-1].type == "spread_parameter", source)
