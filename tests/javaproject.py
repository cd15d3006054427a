"""A small Java project that tests write: classes with methods, and their tests in several frameworks' styles."""

from __future__ import annotations

from pathlib import Path

THINGS = ("Stack", "Queue", "Table", "Graph", "Token", "Frame", "Ledger", "Cursor", "Socket", "Matrix")
VERBS = ("push", "merge", "parse", "close", "rank", "shift", "count")
MAIN, TEST = "src/main/java/org/demo", "src/test/java/org/demo"
_CHECKS = (
    "assertEquals({n}, {thing}.{verb}({n}));",
    "assertThat({thing}.{verb}())\n        .isEqualTo({n});",
    "assertThat({thing}.{verb}(), is(not(nullValue())));",
    "assertThrows(IllegalStateException.class, () -> {{\n      {thing}.{verb}({n});\n    }});",
    "assertTrue({thing}.{verb}() > {n});",
)


def write_java_project(root: Path, files: int = 40) -> Path:
    """``files`` classes with a test class each, two tests a class, at ``root``. Returns ``root``."""
    for number in range(files):
        name, verb = f"{THINGS[number % 10]}{'ABCDEFGH'[number // 10]}", VERBS[number % 7]
        put(root, f"{MAIN}/{name}.java", _source(name, verb))
        put(root, f"{TEST}/{name}Test.java", _test(name, verb, number))
    return root


def put(root: Path, file: str, text: str) -> None:
    """Writes a file, its folders made."""
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text, encoding="utf-8")


def _source(name: str, verb: str) -> str:
    return (
        f"package org.demo;\n\npublic class {name} {{\n  public int {verb}(int size) {{\n"
        f"    return size + {len(name)};\n  }}\n\n  public int {verb}() {{\n    return {verb}(0);\n  }}\n}}\n"
    )


def _test(name: str, verb: str, number: int) -> str:
    thing = name.lower()
    checks = [_CHECKS[(number + i) % 5].format(thing=thing, verb=verb, n=number + i) for i in range(3)]
    setup = "".join(f"    {thing}.{verb}({i});\n" for i in range(1 + number % 4))
    return (
        f"package org.demo;\n\nclass {name}Test {{\n  @Test\n  void {verb}s{name}() {{\n"
        f"    {name} {thing} = new {name}();\n{setup}    {checks[0]}\n    {checks[1]}\n  }}\n\n"
        f"  @Test\n  void after{name}Of{number}() {{\n    var {thing} = make{name}({number});\n    {thing}.{verb}();\n"
        f"    {checks[2]}\n  }}\n}}\n"
    )
