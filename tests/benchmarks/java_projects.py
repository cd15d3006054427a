"""What ``prepare --source --language java`` makes of real projects' tests.

Fetches the source packages of Java libraries through the system's package manager (Debian or Ubuntu: ``apt-get``, from
the archives that the system is set up with; nothing is installed and nothing of the system is changed), unpacks them in
a folder of one's choice, mines each, and prints a table. Nothing of theirs is kept elsewhere.

    python tests/benchmarks/java_projects.py FOLDER [PACKAGE ...] [--output FILE.jsonl]

Works offline where FOLDER holds the packages already.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from distillctl.core.data.corpus import Corpus
from distillctl.core.data.records import Record, write_jsonl
from distillctl.core.data.source_trees import source_corpus, source_trees
from distillctl.core.data.splits import SPLITS
from distillctl.core.errors import DistillError
from distillctl.core.evaluation.lines import assertion_kind
from distillctl.core.evaluation.syntax import valid_syntax

PACKAGES = (
    "libcommons-lang3-java",  # JUnit 5, some Hamcrest
    "libcommons-collections4-java",  # JUnit 3 and 4
    "commons-csv",  # JUnit 5
    "commons-io",  # JUnit 5
    "guava-libraries",  # JUnit 3, Truth
    "jsoup",  # JUnit 5
    "junit5",  # JUnit 5, AssertJ
    "libhamcrest-java",  # Hamcrest
    "libjoda-time-java",  # JUnit 3
    "mockito",  # JUnit 4, AssertJ
    "testng",  # TestNG
)
ARCHIVES = ("sources.list", "sources.list.d/debian.sources", "sources.list.d/ubuntu.sources")
COUNTS = ("files", "unread", "errors", "left out", "train", "dev", "validation")
COLUMNS = ("package", "version", *COUNTS, "focal %", "valid %", "seconds")


def package_manager(folder: Path) -> dict[str, str]:
    """An environment in which apt-get sees source packages, its lists kept in ``folder``."""
    own = folder / "apt"
    (own / "lists/partial").mkdir(parents=True, exist_ok=True)
    (own / "sources").mkdir(exist_ok=True)
    for name in ARCHIVES:
        file = Path("/etc/apt") / name
        if file.is_file():
            text = re.sub(r"^Types:.*$", "Types: deb-src", file.read_text(), flags=re.MULTILINE)
            text = re.sub(r"^deb\s", "deb-src ", text, flags=re.MULTILINE)
            (own / "sources" / file.name.replace("sources.list", "own.list")).write_text(text)
    settings = {
        "APT::Sandbox::User": "root",  # else it warns that its own user may not write to the folder
        "Dir::Etc::sourcelist": "-",
        "Dir::Etc::sourceparts": own / "sources",
        "Dir::State::lists": own / "lists",
    }
    (own / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
    return os.environ | {"APT_CONFIG": str(own / "apt.conf")}


def fetch(packages: Sequence[str], folder: Path) -> None:
    """Downloads and unpacks what is not there yet; says what could not be had."""
    missing = [package for package in packages if not (folder / package).is_dir()]
    if not missing:
        return
    environment = package_manager(folder)
    subprocess.run(["apt-get", "-qq", "update"], env=environment, check=True)
    for package in missing:
        place = folder / f"{package}.packed"
        place.mkdir(exist_ok=True)
        command = ["apt-get", "-qq", "source", "--download-only", "--tar-only", package]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
        archives = sorted(place.glob("*.orig.tar.*"))
        if done.returncode or not archives:
            print(
                f"{package}: not to be had: {(done.stderr.strip().splitlines() or ['no archive'])[0]}", file=sys.stderr
            )
            continue
        for archive in archives:
            with tarfile.open(archive) as content:
                content.extractall(folder / package, filter="data")


def mine(package: str, folder: Path) -> tuple[Corpus, list[Record], str]:
    """The corpus of a package, its records, and its version as its archive's name has it."""
    corpus = source_corpus(source_trees([str(folder / package)], "java"), "one", 3)
    names = [file.name for file in (folder / f"{package}.packed").glob("*.orig.tar.*")]
    version = re.sub(r"^[^_]*_|\.orig.*$", "", names[0]) if names else "?"
    return corpus, [record for split in SPLITS if corpus.sizes[split] for record in corpus.records(split)], version


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("packages", nargs="*", default=PACKAGES)
    parser.add_argument("--output", type=Path, help="all records, as JSONL")
    options = parser.parse_args()
    folder = options.folder.resolve()
    fetch(options.packages, folder)
    print(" | ".join(COLUMNS))
    everything: list[Record] = []
    for package in options.packages:
        if not (folder / package).is_dir():
            continue
        started = time.perf_counter()
        try:
            corpus, records, version = mine(package, folder)
        except DistillError as error:
            print(f"{package} | {error}")
            continue
        seconds = time.perf_counter() - started
        read = [corpus.counts[name] for name in list(corpus.counts)[:4]]
        valid = sum(valid_syntax(record.target, "java") for record in records)
        shares = (100 * corpus.counts["with_focal_method"] / len(records), 100 * valid / len(records))
        sizes = [corpus.sizes[split] for split in SPLITS]
        cells = [package, version, *read, *sizes, *(f"{share:.1f}" for share in shares), f"{seconds:.1f}"]
        print(" | ".join(map(str, cells)), flush=True)
        everything += records
    kinds = Counter(assertion_kind(line, "java") for record in everything for line in record.assertions)
    print(f"{len(everything):,} records; assertions: {', '.join(f'{k} {n:,}' for k, n in kinds.most_common(12))}")
    if options.output is not None:
        print(f"{write_jsonl(options.output, everything):,} records written to {options.output}")


if __name__ == "__main__":
    main()
