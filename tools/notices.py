"""The notices of every crate that is linked in, of what those carry along, and of Rust's own library; reads `cargo metadata`
on stdin."""

import html
import json
import re
import subprocess
import sys
from pathlib import Path

NAMES = ("licen", "copying", "notice", "copyright", "unlicense")
ROOT = Path(__file__).parent.parent
# For crates whose packages have no file with their licence: the text of the first that they name.
TEXTS = {
    "MIT": ROOT / "tools/licences/MIT.txt",
    "Apache-2.0": ROOT / "LICENSE-APACHE",
    "Zlib": ROOT / "tools/licences/Zlib.txt",
    "BSL-1.0": ROOT / "tools/licences/BSL-1.0.txt",
}


# Each text once, with a number: most crates share theirs.
numbers: dict[str, int] = {}


def number(text: str) -> int:
    return numbers.setdefault(text.strip(), len(numbers) + 1)


def read(file: Path) -> int:
    return number(file.read_text(encoding="utf-8", errors="replace"))


metadata = json.load(sys.stdin)
packages = {package["id"]: package for package in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}

# What our own crates need, except for their tests.
open_ids = [
    member for member in metadata["workspace_members"] if not packages[member]["name"].startswith("pajamas-tests")
]
linked = set()
while open_ids:
    current = open_ids.pop()
    if current in linked:
        continue
    linked.add(current)
    for dependency in nodes[current]["deps"]:
        if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"]):
            open_ids.append(dependency["pkg"])

print("pajamas is made of its own code and of what follows, each under its own licence. [1], [2], ... are the texts at the end.\n")
for package in sorted((packages[i] for i in linked), key=lambda package: (package["name"], package["version"])):
    if package["source"] is None:
        continue
    folder = Path(package["manifest_path"]).parent
    texts = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name.lower().startswith(NAMES)]
    # A crate of C or C++ brings the licences of what it carries.
    if package["name"].endswith("-sys-2"):
        texts += sorted(path for path in folder.glob("*/LICENSE*") if path.is_file())
        texts += sorted(path for path in folder.glob("*/licenses/*") if path.is_file())
    authors = ", ".join(package["authors"]) or f"the authors of {package['name']}"
    licence = package["license"] or "see its text"
    print(f"{package['name']} {package['version']}: {licence}, by {authors}")
    if address := package["repository"] or package["homepage"]:
        print(f"    {address}")
    for text in texts:
        print(f"    {text.relative_to(folder)}: [{read(text)}]")
    if not texts:
        named = [name for name in re.split(r"[ /()]+", licence) if name in TEXTS]
        if not named:
            sys.exit(f"error: {package['name']} has no text of its licence, {licence}: put one into tools/licences")
        print(f"    Copyright (c) {authors}; {named[0]}: [{read(TEXTS[named[0]])}]")

print("Rust's standard library: MIT OR Apache-2.0, and parts under other licences\n    https://www.rust-lang.org")
print(f"    Copyright (c) The Rust Project Developers; MIT: [{read(TEXTS['MIT'])}], Apache-2.0: [{read(TEXTS['Apache-2.0'])}]")
rustc = subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True)
library = Path(rustc.stdout.strip()) / "share/doc/rust/COPYRIGHT-library.html"
if library.is_file():
    page = re.sub(r"<style.*?</style>|<[^>]+>", "", library.read_text(encoding="utf-8"), flags=re.DOTALL)
    page = re.sub(r"\n\s*\n\s*", "\n\n", html.unescape(page))
    print(f"    its parts: [{number(page)}]")

for text, position in numbers.items():
    print(f"\n{'=' * 100}\n[{position}]\n\n{text}")
