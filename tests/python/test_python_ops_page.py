"""The Python blocks of docs/python-ops.md, one after the other."""
import re


def test_blocks_run(root):
    blocks = re.findall(r"^```python\n(.*?)^```", (root / "docs" / "python-ops.md").read_text(), re.M | re.S)
    assert len(blocks) == 4
    names: dict = {}
    for i, block in enumerate(blocks):
        exec(compile(block, f"python-ops.md block {i + 1}", "exec"), names)
