"""Writes the types of fastnn.ops from the contract: ``python tests/make_stub.py > fastnn/ops.pyi``.

`test_stub.py` checks that the file in the package is what this prints.
"""

import inspect
import re

from fastnn import _core

HEAD = '''"""Types of the native functions. Made by tests/make_stub.py; don't edit."""

from typing import Any, TypeAlias

Array: TypeAlias = Any  # of any library that exports DLPack
Arrays: TypeAlias = Any  # an array, or a list of arrays
'''


def entries(doc, section):
    """(name, description of its type) of a section of a NumPy-style docstring."""
    match = re.search(rf"{section}\n-+\n(.*?)(?:\n\n|\Z)", doc, re.DOTALL)
    return re.findall(r"^(\w+) : (.*)$", match[1], re.MULTILINE) if match else []


def type_of(text, arrays):
    """Python type for what a docstring says."""
    optional = " | None" if " or None" in text or "optional" in text else ""
    if text.startswith("{"):
        return f"str{optional}"
    if text.startswith("bool") and "array" not in text:
        return "bool"
    if text.startswith("int") and "array" not in text:
        return "int"
    if text.startswith("float") and "array (" not in text:
        return "float | Array" if "0-d" in text else "float"
    return arrays + optional


def default_text(value):
    return f'"{value}"' if isinstance(value, str) else repr(value)


def stub(name):
    function = getattr(_core, name)
    doc = inspect.getdoc(function)
    types = dict(entries(doc, "Parameters"))
    results = entries(doc, "Returns")
    arrays = "Array" if results else "Arrays"
    lines, keyword_only = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            lines.append("*")
            keyword_only = True
        if parameter.name == "out":
            kind = "Array | tuple[Array | None, ...] | None"
        else:
            kind = type_of(types[parameter.name], arrays)
        default = ""
        if parameter.default is not parameter.empty:
            default = f" = {default_text(parameter.default)}"
        lines.append(f"{parameter.name}: {kind}{default}")
    result = "None" if not results else "Array"
    if len(results) > 1 and not any("preactivation" in r for r, _ in results):
        result = f"tuple[{', '.join(['Array'] * len(results))}]"
    body = "".join(f"    {line},\n" for line in lines)
    return f"def {name}(\n{body}) -> {result}: ...\n"


def make():
    """The whole file."""
    names = "".join(f'    "{name}",\n' for name in sorted(_core.op_names))
    return f"{HEAD}\n__all__ = [\n{names}]\n\n" + "".join(stub(n) for n in _core.op_names)


if __name__ == "__main__":
    print(make(), end="")
