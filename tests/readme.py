"""The examples in README.md, for the tests that run them."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def example(heading: str) -> str:
    """The first Python block under a heading, such as ``"### PyTorch"``."""
    text = README.read_text(encoding="utf-8")
    section = text.split(f"\n{heading}\n", 1)[1]
    return re.search(r"```python\n(.*?)```", section, re.S)[1]
