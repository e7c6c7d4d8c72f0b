#!/usr/bin/env python3
"""Checks the #include edges of the C++ sources against docs/layers.toml.

  check_layers.py [ROOT]     exit 1 and one line per violation, or "layers: N files, no violation"

A quoted include is looked up beside the including file, then in src/ and include/. An angle include is a C++
standard header, or must belong to a third-party group that the layer lists. Test code (*_test.cc, test_*.h)
may use GoogleTest besides, and fuzz targets follow the rules of their folder.
"""
import fnmatch
import pathlib
import re
import sys
import tomllib

SUFFIXES = {".h", ".cc", ".inc", ".cu", ".cuh", ".cpp", ".hpp", ".c"}
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)', re.MULTILINE)
GETENV = re.compile(r"\b(?:secure_)?getenv\b")
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
STANDARD = re.compile(r"^(c?[a-z_0-9]+)$")


class Layers:
    """The rules of docs/layers.toml."""

    def __init__(self, root: pathlib.Path):
        with open(root / "docs" / "layers.toml", "rb") as file:
            data = tomllib.load(file)
        self.root = root
        self.layers = {layer["name"]: layer for layer in data["layer"]}
        self.by_path = sorted(self.layers.values(), key=lambda layer: -len(layer["path"]))
        self.third_party = data["third_party"]
        self.rules = data["rules"]
        for layer in self.layers.values():
            unknown = set(layer["may"]) - set(self.layers)
            unknown |= set(layer["third_party"]) - set(self.third_party)
            if unknown:
                raise SystemExit(f"docs/layers.toml: layer '{layer['name']}' names unknown {sorted(unknown)}")
        self.check_acyclic()

    def check_acyclic(self) -> None:
        done: set[str] = set()

        def visit(name: str, above: tuple[str, ...]) -> None:
            if name in above:
                raise SystemExit(f"docs/layers.toml: cycle {' -> '.join((*above, name))}")
            if name not in done:
                for below in self.layers[name]["may"]:
                    visit(below, (*above, name))
                done.add(name)

        for name in self.layers:
            visit(name, ())

    def layer_of(self, path: str):
        """The layer with the longest path that holds this file, or None."""
        for layer in self.by_path:
            if path.startswith(layer["path"] + "/"):
                return layer
        return None

    def group_of(self, header: str) -> str | None:
        for group, patterns in self.third_party.items():
            if any(fnmatch.fnmatch(header, pattern) for pattern in patterns):
                return group
        return None

    def isa_of(self, path: pathlib.PurePath) -> str | None:
        for isa in self.rules["isas"]:
            if path.stem.endswith("_" + isa):
                return isa
        return None


def is_test(path: pathlib.PurePath) -> bool:
    return path.stem.endswith("_test") or path.stem.startswith("test_")


def sources(root: pathlib.Path) -> list[pathlib.Path]:
    found = []
    for top in ("src", "include", "apps", "tests", "python"):
        for path in (root / top).rglob("*"):
            if path.suffix in SUFFIXES and not {"target", "node_modules"} & set(path.parts):
                found.append(path)
    return sorted(found)


def resolve(layers: Layers, file: pathlib.Path, header: str) -> str | None:
    """Path of a quoted include relative to the root, or None when no such file is in the tree."""
    for base in (file.parent, layers.root / "src", layers.root / "include",
                 layers.root / "apps/web"):
        target = (base / header).resolve()
        if target.is_file() and target.is_relative_to(layers.root):
            return target.relative_to(layers.root).as_posix()
    return None


def check_third_party(layers: Layers, layer, file: pathlib.PurePath, header: str) -> str | None:
    isa = layers.isa_of(file)
    group = layers.group_of(header)
    if group is None:
        if not STANDARD.match(header):
            return f"<{header}> belongs to no third-party group of docs/layers.toml"
        if isa and header in layers.rules["not_in_isa_files"]:
            return f"<{header}> in a file with {isa} instructions"
        return None
    if group == "test":
        return None if is_test(file) else f"<{header}> outside tests"
    if group == "intrinsics":
        inside = file.as_posix().startswith("src/kernels/cpu/")
        return None if inside and isa else f"<{header}> outside an ISA file (*_<isa>.cc in src/kernels/cpu)"
    if group not in layer["third_party"]:
        return f"<{header}>: layer '{layer['name']}' may not use '{group}'"
    return None


def check_file(layers: Layers, file: pathlib.Path) -> list[str]:
    relative = file.relative_to(layers.root)
    layer = layers.layer_of(relative.as_posix())
    if layer is None:
        return [f"{relative}: belongs to no layer of docs/layers.toml"]
    text = file.read_text(encoding="utf-8")
    problems = []

    def report(position: int, message: str) -> None:
        problems.append(f"{relative}:{text.count(chr(10), 0, position) + 1}: {message}")

    for match in INCLUDE.finditer(text):
        quoted, angle = match.groups()
        if angle is None:
            target = resolve(layers, file, quoted)
            if target is not None:
                other = layers.layer_of(target)
                if other is None:
                    report(match.start(), f'"{quoted}" belongs to no layer')
                elif other is not layer and other["name"] not in layer["may"]:
                    report(match.start(),
                           f"layer '{layer['name']}' may not include '{other['name']}' (\"{quoted}\")")
                continue
            if layers.group_of(quoted) is None:
                report(match.start(), f'"{quoted}" was not found in the tree')
                continue
        problem = check_third_party(layers, layer, relative, quoted or angle)
        if problem:
            report(match.start(), problem)
    if relative.as_posix() not in layers.rules["getenv"]:
        code = COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)
        for match in GETENV.finditer(code):
            report(match.start(), "getenv outside src/base/env.cc")
    return problems


def check(root: pathlib.Path) -> tuple[int, list[str]]:
    """(number of files, violations) of a source tree."""
    layers = Layers(root)
    files = sources(root)
    return len(files), [problem for file in files for problem in check_file(layers, file)]


def main() -> int:
    default = pathlib.Path(__file__).resolve().parents[1]
    root = pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else default
    count, problems = check(root)
    print("\n".join(problems) if problems else f"layers: {count} files, no violation")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
