"""The notices of every crate that is linked in, and of what those carry along; reads `cargo metadata` on stdin."""

import json
import sys
from pathlib import Path

NAMES = ("licen", "copying", "notice", "copyright", "unlicense")

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

print("pajamas is made of its own code and of what follows, each under its own licence.\n")
for package in sorted((packages[i] for i in linked), key=lambda package: (package["name"], package["version"])):
    if package["source"] is None:
        continue
    folder = Path(package["manifest_path"]).parent
    texts = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name.lower().startswith(NAMES)]
    # A crate of C or C++ brings the licences of what it carries.
    if package["name"].endswith("-sys-2"):
        texts += sorted(path for path in folder.glob("*/LICENSE*") if path.is_file())
        texts += sorted(path for path in folder.glob("*/licenses/*") if path.is_file())
    authors = ", ".join(package["authors"]) or "its authors"
    print("=" * 100)
    print(f"{package['name']} {package['version']}: {package['license'] or 'see below'}, by {authors}")
    print(package["repository"] or package["homepage"] or "", end="\n\n")
    for text in texts:
        print(f"--- {text.relative_to(folder)}\n")
        print(text.read_text(encoding="utf-8", errors="replace").strip(), end="\n\n")
