#!/usr/bin/env python3
"""Runs the code cells of a notebook in order, in one namespace and in the notebook's folder.

  notebook.py FILE.ipynb    runs it and writes what the cells printed and returned back into the file
"""
import ast
import contextlib
import io
import json
import os
import pathlib
import sys


def run_cell(source: str, name: str, namespace: dict) -> tuple[str, object]:
    """(what it printed, the value of its last line)"""
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
    return printed.getvalue(), value


def outputs_of(printed: str, value: object, count: int) -> list[dict]:
    outputs = []
    if printed:
        outputs.append({"name": "stdout", "output_type": "stream", "text": printed.splitlines(keepends=True)})
    if value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_svg_"):
            data["image/svg+xml"] = value._repr_svg_().splitlines(keepends=True)
        outputs.append({"data": data, "execution_count": count, "metadata": {}, "output_type": "execute_result"})
    return outputs


def run(path: pathlib.Path) -> dict:
    """The notebook with new outputs. An exception of a cell goes through."""
    notebook = json.loads(path.read_text())
    namespace = {"__name__": "__main__"}
    before = pathlib.Path.cwd()
    os.chdir(path.parent)
    try:
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for count, cell in enumerate(code, 1):
            printed, value = run_cell("".join(cell["source"]), f"{path.name}, cell {count}", namespace)
            cell["outputs"], cell["execution_count"] = outputs_of(printed, value, count), count
    finally:
        os.chdir(before)
    return notebook


if __name__ == "__main__":
    file = pathlib.Path(sys.argv[1]).resolve()
    file.write_text(json.dumps(run(file), indent=1, ensure_ascii=False) + "\n")
