"""The reference in the documentation is what the package says of itself. UPDATE_REFERENCE=1 writes it anew."""

import ast
import inspect
import os
import re
from pathlib import Path

import pytest

import pajamas
import pajamas.aio

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "reference" / "python.md"
ALIASES = ("__version__", "aio", "Conversation", "Message", "ModelReference", "Progress", "Report")
PACKAGE = Path(pajamas.__file__).parent


def prose(text):
    """A docstring as Markdown: roles and double ticks become ticks, ``:param x:`` an item of a list."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", inspect.cleandoc(text or "").replace("``", "`"))
    text = re.sub(r"^:param ([\w.]+):", r"- `\1`:", text, flags=re.MULTILINE)
    return re.sub(r"^:raises ([\w.]+):", r"- raises `\1`", text, flags=re.MULTILINE)


def definitions():
    """Every function and class of the package's files: its node, and the lines of its file, by name."""
    found = {}
    for file in sorted(PACKAGE.glob("*.py")):
        text = file.read_text()
        for node in ast.parse(text).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                found.setdefault((file.stem, node.name), (node, text.splitlines()))
    return found


def signature(node, leave_out_self):
    """As it is written, without ``self`` where it is a function of the module."""
    arguments = ast.unparse(node.args)
    if leave_out_self:
        arguments = re.sub(r"^self(, )?", "", arguments)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{node.name}({arguments}){returns}"
    if len(line) <= 100:
        return line
    # One argument a line: at commas outside of brackets.
    depth, lines = 0, ""
    for letter in arguments + ",":
        depth += {"[": 1, "]": -1}.get(letter, 0)
        lines += ",\n" if letter == "," and depth == 0 else letter
    return f"{node.name}(\n" + "".join(f"    {line.strip()}\n" for line in lines.splitlines()) + f"){returns}"


def comment_above(lines, line):
    """The lines that begin ``#:`` above one."""
    above = []
    while lines[line - 2].strip().startswith("#:"):
        line -= 1
        above.insert(0, lines[line - 1].strip()[2:].strip())
    return prose(" ".join(above))


def members(node, lines):
    """The attributes and the methods of a class, one line or paragraph each."""
    attributes, methods = [], []
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and not item.target.id.startswith("_"):
            said = comment_above(lines, item.lineno)
            attributes.append(f"- `{ast.unparse(item.target)}: {ast.unparse(item.annotation)}`{': ' + said if said else ''}")
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)) and not item.name.startswith("_"):
            said = prose(ast.get_docstring(item))
            if any(ast.unparse(decorator) == "property" for decorator in item.decorator_list):
                attributes.append(f"- `{item.name}: {ast.unparse(item.returns)}`: {said}")
            else:
                methods.append(f"`{signature(item, True)}`\n\n{said}\n")
    return "\n".join(attributes) + "\n\n" * bool(attributes) + "\n".join(methods)


def page():
    known = definitions()
    installation, _ = known["_installation", "Installation"]
    functions = {item.name: item for item in installation.body if isinstance(item, ast.FunctionDef)}
    parts = [
        "# The Python package",
        "Made from the package by `UPDATE_REFERENCE=1 make test`; a test compares. [From Python](../python.md) is the guide.",
        "## Functions",
        "They use the installation of the command `pajamas` (`~/.pajamas`), and are methods of `Installation`, too.",
    ]
    for name, node in functions.items():
        if not name.startswith("_"):
            parts += [f"### `{name}`", f"```text\n{signature(node, True)}\n```", prose(ast.get_docstring(node))]
    parts.append("## Types of arguments and results")
    for alias, file in (
        ("ModelReference", "_installation"),
        ("Message", "_model"),
        ("Conversation", "_model"),
        ("Progress", "_progress"),
        ("Report", "_results"),
    ):
        lines = (PACKAGE / f"{file}.py").read_text().splitlines()
        number = next(number for number, line in enumerate(lines, 1) if line.startswith(f"{alias} = "))
        parts.append(f"- `{lines[number - 1].replace('os.PathLike', 'PathLike')}`: {comment_above(lines, number)}")
    parts.append("## Classes")
    names = [name for name in pajamas.__all__ if name not in functions and name not in ALIASES]
    classes = [key for key in known if key[1] in names and key[0] not in ("aio", "_errors")]
    for key in sorted(classes, key=lambda key: key[1]):
        node, lines = known[key]
        parts += [f"### `{key[1]}`", prose(ast.get_docstring(node))]
        if key[1] == "Installation":
            begin = functions["__init__"]
            parts.append(f"`Installation({signature(begin, True).split('(', 1)[1].rsplit(' -> ', 1)[0]}`")
        else:
            parts.append(members(node, lines).strip())
    parts.append("## Exceptions")
    for name in sorted(name for module, name in known if module == "_errors" and name in names):
        kind = getattr(pajamas, name)
        bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
        parts.append(f"- `{name}` ({bases}): {prose(kind.__doc__).splitlines()[0]}")
    parts += ["## `pajamas.aio`", prose(pajamas.aio.__doc__.split("\n\n")[0])]
    asynchronous = sorted(name for name in functions if not name.startswith("_"))
    assert all(hasattr(pajamas.aio, name) for name in asynchronous)
    parts.append(
        f"{', '.join(f'`{name}`' for name in asynchronous)} are those above, to be awaited; `load` is for `async with`, too. "
        "`Model`, `Stream` and `Installation` are as above, with `async` methods."
    )
    return "\n\n".join(part for part in parts if part) + "\n"


@pytest.mark.skipif(not PAGE.parent.is_dir(), reason="the documentation is not here")
def test_the_reference_is_fresh():
    made = page()
    if os.environ.get("UPDATE_REFERENCE"):
        PAGE.write_text(made)
    assert PAGE.read_text() == made, "UPDATE_REFERENCE=1 make test writes docs/reference/python.md anew"


def test_everything_public_is_documented():
    for name in pajamas.__all__:
        if name not in ALIASES:
            assert getattr(pajamas, name).__doc__, name
    assert set(pajamas.__all__) >= {"Installation", "Model", "Stream", "quantize", "load", "aio"}


@pytest.mark.skipif(not PAGE.parent.is_dir(), reason="the documentation is not here")
@pytest.mark.parametrize("page", ["README.md", "docs/python.md", "host/python/README.md"])
def test_what_the_pages_show_is_typed_rightly(page, tmp_path):
    """Their Python compiles, and a type checker finds every name, argument and attribute."""
    api = pytest.importorskip("mypy.api")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        file = tmp_path / f"block{number}.py"
        file.write_text(block)
        out, err, code = api.run(["--no-incremental", str(file)])
        assert code == 0, f"{page}:\n{block}\n{out}{err}"
