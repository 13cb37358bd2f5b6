"""The examples in README.md, for the tests that run them."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def example(heading: str) -> str:
    """The first ```python block under the heading of that text."""
    name = re.escape(heading.lstrip("# "))
    section = re.search(
        rf"^(##+) {name}\n(.*?)(?=^##+ |\Z)", README.read_text("utf-8"), re.M | re.S
    )
    assert section is not None, f"README.md has no heading {heading!r}"
    block = re.search(r"^```python\n(.*?)^```$", section[2], re.M | re.S)
    assert block is not None, f"README.md has no example under {heading!r}"
    return block[1]
