"""docs.py: checks that the documents are true to the repository where a program can tell: links lead somewhere, and
the messages that the runbook explains are in the code."""

import pathlib
import re
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent


def anchors(file):
    heads = re.findall(r"^#+ +(.*)$", file.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def links():
    for file in [*TOP.glob("*.md"), *(TOP / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text()):
            if re.match(r"\w+:", target):
                continue
            path, _, anchor = target.partition("#")
            other = (file.parent / path).resolve() if path else file
            if not other.exists():
                yield f"{file.relative_to(TOP)}: no {path}"
            elif anchor and other.suffix == ".md" and anchor not in anchors(other):
                yield f"{file.relative_to(TOP)}: {path} has no heading #{anchor}"


def messages():
    # A text may be broken over lines in the code.
    sources = (file.read_text() for file in (TOP / "crates").glob("*/src/**/*.rs"))
    code = re.sub(r"\\\n\s*", "", "\n".join(sources))
    for message in re.findall(r"^\| `([^`]+)` \|", (TOP / "docs/runbook.md").read_text(), re.M):
        if message not in code:
            yield f"docs/runbook.md: nothing says {message!r}"


wrong = [*links(), *messages()]
if wrong:
    sys.exit("\n".join(wrong))
