"""The library's docstrings on the reference page.

They are plain text with formulas such as ``|x|``, to be read in an editor. reStructuredText would
take those for markup, so it is escaped here; and signatures are shown as they stand in the source,
because Python has forgotten the names of type aliases and shapes by the time Sphinx asks it.
"""

import ast
import inspect
import re
import textwrap
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

# A prime after a letter, which smart quotes would bend.
_PRIME = re.compile(r"(?<![\w'])(\w+)('+)(?!\w)")
# Backslash, star, bar and a last underscore mean something to reStructuredText; code and *emphasis*
# stay. Napoleon sees to underscores before a colon, in the names of arguments.
_CODE_OR_MARKUP = re.compile(r"(`+.+?`+|(?<!\S)\*\w+\*(?!\w))|([\\*|]|(?<=\w)_(?![\w:]))")


def escape_formulas(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Escape everything but code in backticks and examples, and set primes as primes."""
    example = False
    for number, line in enumerate(lines):
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if not example:
            line = _PRIME.sub(lambda m: m[1] + "′" * len(m[2]), line)
            lines[number] = _CODE_OR_MARKUP.sub(lambda m: m[1] or "\\" + m[2], line)
    if what == "class":
        # The attributes of a dataclass are the arguments of its constructor.
        lines[:] = ["Args:" if line == "Attributes:" else line for line in lines]
    if what in ("attribute", "data", "property") and lines:
        # Napoleon takes the words before a colon in the first line for a type. A line that holds
        # nothing but an escaped line break is no words.
        lines.insert(0, "\\")


def signature_from_source(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, arguments: str, result: str
) -> tuple[str, str | None] | None:
    """The signature of a function as its author wrote it."""
    if not inspect.isfunction(obj) or obj.__name__ == "<lambda>":
        return None
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(obj))).body
    assert isinstance(definition, ast.FunctionDef)
    parameters = definition.args
    if what == "method":
        (parameters.posonlyargs or parameters.args).pop(0)
    returns = ast.unparse(definition.returns) if definition.returns else None
    return f"({ast.unparse(parameters)})", returns


def setup(app: Sphinx) -> ExtensionMetadata:
    # Before Napoleon, which reads the sections.
    app.connect("autodoc-process-docstring", escape_formulas, priority=400)
    app.connect("autodoc-process-signature", signature_from_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
