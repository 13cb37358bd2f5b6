"""csrc/ops.def as Python data, so that the tests restate no signature, shape or default.

OPS maps each op's name to its fields in the order of the stanza.
"""

import re
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "csrc" / "ops.def"
ARRAYS = {"IN", "OPT", "MAT", "INOUT", "OPTINOUT", "TARGETS"}
UPDATED = {"INOUT", "OPTINOUT"}
RESULTS = {"OUT", "OPTOUT", "LOSS"}
NUMBERS = {"REAL", "INT", "FLAG", "CHOICE", "SCALAR", "COUNTER"}
KINDS = ARRAYS | RESULTS | NUMBERS | {"DIM", "KW"}
# Position of an array's shape and type among the words of its macro; type is T where not given.
SHAPE = {"MAT": 1, "LOSS": 1} | dict.fromkeys(
    ("IN", "OPT", "INOUT", "OPTINOUT", "OUT", "OPTOUT"), 2
)


class Field(NamedTuple):
    kind: str
    name: str
    type: str = ""
    shape: tuple = ()  # dim names, "n..." for any number of axes
    flag: str = ""  # of OPTOUT
    default: str = ""  # of a number
    choices: tuple = ()
    keyword_only: bool = False


class Op(NamedTuple):
    name: str
    fields: tuple

    def of(self, kinds):
        return [field for field in self.fields if field.kind in kinds]

    @property
    def parameters(self):
        return self.of(ARRAYS | NUMBERS)

    @property
    def in_place(self):
        return bool(self.of(UPDATED))

    @property
    def takes_dtype(self):
        """Whether no array decides the type of a floating-point result: dtype= does."""
        types = [{field.type for field in self.of(kinds)} for kinds in (ARRAYS, RESULTS)]
        return "T" in types[1] - types[0]

    def results(self, arguments):
        """Names of what a call with these arguments returns."""
        return [f.name for f in self.of(RESULTS) if not f.flag or arguments.get(f.flag)]

    def __getitem__(self, name):
        return next(field for field in self.parameters if field.name == name)


def expanded(text):
    """The text with the ACTIVATION macro written out."""
    macro = re.search(r"#define ACTIVATION\(name, formula, ns\)(.*?[^\\])\n", text, re.S)
    body = macro[1].replace("\\\n", "\n")

    def expand(use):
        return re.sub(r"#?\bname\b", use[1], body.replace("name##_", use[1] + "_"))

    text = text.replace(macro[0], "")
    return re.sub(r'^ACTIVATION\((\w+), ".*", [\d.]+\)$', expand, text, flags=re.M)


def macros(body):
    """(macro, [words]) for each macro used in a stanza; strings and parentheses nest."""
    for use in re.finditer(r"\b([A-Z]+)\b(\()?", re.sub(r'"[^"]*"', hide_parentheses, body)):
        if use[1] not in KINDS:
            continue
        words, depth, quoted = [""], 0, False
        for letter in body[use.end() :] if use[2] else "":
            quoted ^= letter == '"'
            depth += 0 if quoted else (letter == "(") - (letter == ")")
            if depth < 0:
                break
            if letter == "," and not depth and not quoted:
                words.append("")
            else:
                words[-1] += letter
        yield use[1], [word.strip() for word in words]


def hide_parentheses(string):
    return '"' + "." * (len(string[0]) - 2) + '"'


def dims(text):
    return tuple(part.strip() for part in text.strip("()").split(",") if part.strip())


def fields(body):
    keyword_only = False
    for kind, words in macros(body):
        if kind == "KW":
            keyword_only = True
            continue
        shape = dims(words[SHAPE[kind]]) if kind in SHAPE else ()
        if kind == "TARGETS":
            shape = (words[1],)
        yield Field(
            kind,
            words[0],
            type="T" if kind in ("MAT", "LOSS") else words[1] if kind in SHAPE else "",
            shape=shape,
            flag=words[3] if kind == "OPTOUT" else "",
            default=words[2 if kind == "CHOICE" else 1] if kind in NUMBERS else "",
            choices=tuple(words[1].strip('"').split("|")) if kind == "CHOICE" else (),
            keyword_only=keyword_only,
        )


def parse(text):
    stanzas = re.findall(r"^ *OP\((\w+),(.*?)^ *END\(\1\)", expanded(text), re.S | re.M)
    return {name: Op(name, tuple(fields(body))) for name, body in stanzas}


OPS = parse(SOURCE.read_text())
