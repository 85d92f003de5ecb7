"""Writes docs/json.md from the schemas in docs/schemas: `python docs/make_json.py [--check]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from made import options_of, write

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "schemas"
PAGE = ROOT / "docs" / "json.md"
ORDER = ("watch", "doctor", "versions", "report", "export", "suggest", "compare", "demo", "methods", "completion")
Schema = dict[str, Any]
HEAD = """# What `--json` prints

Every command prints one JSON document on standard output with `--json`, and nothing else there: what a script prints,
progress and warnings go to standard error. The documents are strict JSON: a number that is not finite is `null`, never
`NaN` or `Infinity`, and the field says what that means. Exit codes are those of [the command](cli.md); where a call is
a mistake, or a script never trained, there may be no document, and the exit code is 2.

Each document has a JSON Schema in `docs/schemas`, from which this page is made; tests hold what the commands
print against it. A later version may add fields, and changes none without saying so in the changelog.
"""


def page() -> str:
    """The page with a section for each command."""
    return "\n".join([HEAD, *(section(name) for name in ORDER)])


def section(name: str) -> str:
    """What stands in a document, and an example."""
    schema: Schema = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    lines = [f"## `{schema['title']}`", "", f"Schema: [{name}.json](schemas/{name}.json).", ""]
    lines += [line for title, fields in tables(schema) for line in table(title, fields)]
    for example in schema["examples"]:
        lines += ["```json", json.dumps(example, indent=1, ensure_ascii=False), "```", ""]
    return "\n".join(lines)


def tables(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The objects of a schema by what they are called: those of the document first."""
    choices = schema.get("oneOf", schema.get("anyOf", []))
    for choice in [schema, *choices]:
        if "properties" in choice:
            yield choice.get("title", "") if choice is not schema else "", choice
        elif "additionalProperties" in choice:
            yield f"{choice['title']}: {words(choice)}, {choice['description']}", {}
        elif choice is not schema or "items" in schema:
            yield f"{choice['title'] if choice is not schema else ''}: {words(choice)}".lstrip(": "), {}
    yield from schema.get("definitions", {}).items()


def table(title: str, schema: Schema) -> list[str]:
    """The fields of an object, and of those in it."""
    head = [f"**{title}**", ""] if title else []
    if not schema:
        return head
    return [*head, "| field | type | meaning |", "| --- | --- | --- |", *rows(schema), ""]


def rows(schema: Schema, before: str = "") -> Iterator[str]:
    """A row for each field."""
    for name, field in schema["properties"].items():
        yield f"| `{before}{name}` | {words(field)} | {field['description']} |"
        if "properties" in field:
            yield from rows(field, f"{before}{name}.")


def words(schema: Schema) -> str:
    """The type of a field in words."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "allOf" in schema:
        return words(schema["allOf"][0])
    if "anyOf" in schema:
        return " or ".join(map(words, schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return ", ".join(f'"{value}"' for value in schema.get("enum", [schema.get("const")]))
    kinds = schema.get("type", "anything")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return " or ".join(of(kind, schema) for kind in kinds)


def of(kind: str, schema: Schema) -> str:
    """A type with what is in it."""
    if kind == "array":
        return f"list of ({words(schema['items'])})"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"names to ({words(schema['additionalProperties'])})"
    return kind


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or check it."""
    check = options_of(__doc__).parse_args(arguments).check
    return write(PAGE, page(), check)


if __name__ == "__main__":
    sys.exit(main())
