"""Uses a custom backend, straight from the folder that it was built in.

    pajamas plugins new acme && (cd acme && cargo build --release)
    python custom_backend.py acme/target/release acme TEXT

A new plugin is a small language model with a quantizer that reads text files.
"""

import sys

import pajamas


def main(folder: str, name: str, text: str) -> None:
    here = pajamas.Installation(plugin_dirs=[folder])
    backend = next((backend for backend in here.backends() if backend.name == name), None)
    if backend is None:
        raise SystemExit(f"no plugin `{name}` in {folder}")
    print(f"{backend.name} {backend.version}: {', '.join(backend.devices)}")

    # `strict`: no other backend may answer in its place.
    with here.load(text, name, strict=True) as model:
        print(model.generate("Once upon a time", seed=1, max_tokens=40))


if __name__ == "__main__":
    main(*sys.argv[1:])
