"""Python text of values, for configs."""

import json
from collections.abc import Mapping
from typing import Any


class Name(str):
    """A variable of the config."""


def python_text(value: Any, depth: int = 0) -> str:
    """Return the Python text of a value; dicts and long lists with one item per line, indented by ``depth``."""
    if isinstance(value, Name):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("{{", "{\\x7b")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            return "{" + ", ".join(f"{python_text(key)}: {python_text(item)}" for key, item in value.items()) + "}"
        items = [f"{key}={python_text(item, depth + 1)}" for key, item in value.items()]
        flat = f"dict({', '.join(items)})"
        if len(flat) < 70 and "\n" not in flat:
            return flat
        inner = "".join(f"{'    ' * (depth + 1)}{item},\n" for item in items)
        return f"dict(\n{inner}{'    ' * depth})"
    if isinstance(value, list | tuple):
        texts = [python_text(item) for item in value]
        opening, closing = "[]" if isinstance(value, list) else "()"
        flat = f"{opening}{', '.join(texts)}{',' if isinstance(value, tuple) and len(texts) == 1 else ''}{closing}"
        if len(flat) <= 90:
            return flat
        lines, line = [], "    " * (depth + 1)
        for text in texts:
            if len(line) + len(text) > 105:
                lines.append(line.rstrip())
                line = "    " * (depth + 1)
            line += f"{text}, "
        lines.append(line.rstrip())
        return opening + "\n" + "\n".join(lines) + f"\n{'    ' * depth}{closing}"
    return repr(value)
