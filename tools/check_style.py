#!/usr/bin/env python3
"""Style rules that clang-format cannot see, and clang-format itself.

  check_style.py [ROOT]         exit 1 and one line per violation, or "style: N files, no violation"
  check_style.py --list-cpp     the C++ sources, one a line (for ./dev fmt)

Rules: files of at most 800 lines; functions of at most 80 lines outside src/kernels; every header has
`#pragma once` under an opening comment of 2 to 15 lines; no work-in-progress markers; no path of somebody's
machine; C++ sources formatted as .clang-format says (checked when the pinned clang-format is installed).
"""
import ast
import pathlib
import re
import shutil
import subprocess
import sys

CPP = {".h", ".cc", ".inc", ".cu", ".cuh", ".cpp", ".hpp"}
TEXT = CPP | {".py", ".sh", ".cmake", ".rs", ".ts", ".tsx", ".mjs", ".css", ".html", ".md", ".toml", ".yaml", ".txt", ".json"}
SKIPPED_FOLDERS = {".git", "target", "node_modules", "__pycache__", ".work", "goldens", ".pytest_cache"}
LOCK_FILES = {"Cargo.lock", "package-lock.json", "tokenizer.json"}
MAX_FILE = 800
MAX_FUNCTION = 80
MAX_HEADER_COMMENT = 15
MIN_HEADER_COMMENT = 2
# Assembled, so that this file passes its own check.
MARKERS = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.<>$}])/(wo" + r"rk|ro" + r"ot|home/[a-z]+)/|\.\./sha" + r"red\b")


def all_files(root: pathlib.Path) -> list[pathlib.Path]:
    found = []
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if SKIPPED_FOLDERS & set(parts) or parts[0] == "build" or parts[0].startswith("build-"):
            continue
        if path.is_file() and (path.suffix in TEXT or path.name == "dev"):
            found.append(path)
    return sorted(found)


def blank(match: re.Match) -> str:
    """Spaces for a comment or literal, newlines kept."""
    return re.sub(r"[^\n]", " ", match.group())


LITERALS = re.compile(
    r'R"(?P<tag>[^(\s]*)\(.*?\)(?P=tag)"|//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9A-Za-z_])'(?:\\.|[^'\\\n])+'", re.DOTALL)
PREPROCESSOR = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)
NOT_A_FUNCTION = re.compile(r"^(?:\s*(?:template\s*<.*>|\[\[.*?\]\]))*\s*(?:inline\s+)?"
                            r"(namespace|class|struct|union|enum|extern)\b", re.DOTALL)


def long_functions(text: str) -> list[tuple[int, int]]:
    """(first line, number of lines) of C++ function bodies longer than MAX_FUNCTION, by counting braces."""
    code = PREPROCESSOR.sub(blank, LITERALS.sub(blank, text))
    found = []
    scopes = []      # "scope" for namespaces and classes, "body", or "other"
    head_start = 0   # where the declaration before the next brace begins
    body_start = 0
    for match in re.finditer(r"[{};]", code):
        at, token = match.start(), match.group()
        in_body = "body" in scopes
        if token == ";":
            if not in_body:
                head_start = at + 1
        elif token == "{":
            head = code[head_start:at]
            if in_body or (at and code[at - 1] not in " \n"):  # `name{` is an initialiser
                scopes.append("other")
            elif NOT_A_FUNCTION.match(head):
                scopes.append("scope")
                head_start = at + 1
            elif "(" in head and not head.rstrip().endswith("="):
                scopes.append("body")
                body_start = head_start + len(head) - len(head.lstrip())
            else:
                scopes.append("other")
        elif scopes:
            kind = scopes.pop()
            if kind == "body":
                lines = code.count("\n", body_start, at) + 1
                if lines > MAX_FUNCTION:
                    found.append((code.count("\n", 0, body_start) + 1, lines))
            if kind in ("body", "scope"):
                head_start = at + 1
    return found


def long_python_functions(text: str) -> list[tuple[int, int]]:
    return [(node.lineno, node.end_lineno - node.lineno + 1) for node in ast.walk(ast.parse(text))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            and node.end_lineno - node.lineno + 1 > MAX_FUNCTION]


def check_header(text: str) -> str | None:
    lines = text.splitlines()
    n_comment = 0
    while n_comment < len(lines) and lines[n_comment].startswith("//"):
        n_comment += 1
    if not MIN_HEADER_COMMENT <= n_comment <= MAX_HEADER_COMMENT:
        return (f"opens with {n_comment} comment lines; {MIN_HEADER_COMMENT} to {MAX_HEADER_COMMENT} wanted: "
                "what it owns, formula or data flow, thread rule")
    if "#pragma once" not in lines:
        return "has no #pragma once"
    return None


def check_file(root: pathlib.Path, path: pathlib.Path) -> list[str]:
    name = path.relative_to(root).as_posix()
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return [f"{name}: is not UTF-8"]
    problems = []
    is_code = path.suffix not in {".md", ".json", ".txt"} and path.name not in LOCK_FILES
    n_lines = text.count("\n")
    if is_code and n_lines > MAX_FILE:
        problems.append(f"{name}: {n_lines} lines; at most {MAX_FILE}")
    if path.name not in LOCK_FILES:
        for pattern, what in ((MARKERS, "work-in-progress marker"), (MACHINE_PATHS, "path of one machine")):
            for match in pattern.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                problems.append(f"{name}:{line}: {what} '{match.group()}'")
    if path.suffix in {".h", ".hpp", ".cuh"}:
        problem = check_header(text)
        if problem:
            problems.append(f"{name}: {problem}")
    functions = []
    if path.suffix in CPP and not name.startswith("src/kernels/"):
        functions = long_functions(text)
    elif path.suffix == ".py":
        functions = long_python_functions(text)
    problems += [f"{name}:{line}: function of {n} lines; at most {MAX_FUNCTION}" for line, n in functions]
    return problems


def check_format(root: pathlib.Path, files: list[pathlib.Path]) -> list[str]:
    """Files that clang-format would change; one run for all of them."""
    program = shutil.which("clang-format", path=str(pathlib.Path(sys.executable).parent))
    if program is None or not files:
        return []
    done = subprocess.run([program, "--dry-run", "--ferror-limit=1", *map(str, files)], cwd=root,
                          capture_output=True, text=True, check=False)
    bad = sorted({line.split(":")[0] for line in done.stderr.splitlines()
                  if "[-Wclang-format-violations]" in line})
    return [f"{pathlib.Path(path).relative_to(root)}: not formatted; run ./dev fmt" for path in bad]


def cpp_files(root: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in all_files(root) if path.suffix in CPP - {".inc"}]


def main() -> int:
    root = pathlib.Path(__file__).resolve().parents[1]
    if sys.argv[1:] == ["--list-cpp"]:
        print("\n".join(str(path.relative_to(root)) for path in cpp_files(root)))
        return 0
    if sys.argv[1:]:
        root = pathlib.Path(sys.argv[1]).resolve()
    files = all_files(root)
    problems = [problem for path in files for problem in check_file(root, path)]
    problems += check_format(root, cpp_files(root))
    print("\n".join(problems) if problems else f"style: {len(files)} files, no violation")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
