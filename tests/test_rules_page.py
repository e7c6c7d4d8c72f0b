"""docs/rules.md says of every operator, refused class and keyword argument what it does here, as the .inc files have
it, and of nothing else."""
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/rules.md").read_text()
ELSEWHERE = {"ascend.ascend_linear.KLinearTorchW8A8A2", "ascend.*"}  # classes of the original that refused.inc lacks


def section(title: str) -> str:
    return re.split(r"^#+ ", PAGE.split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def table(title: str) -> dict[str, list[str]]:
    """Lines of the section's tables: name in the first cell → the other cells."""
    lines = re.findall(r"^\| `([^`]+)` \|(.*)\|$", section(title), re.MULTILINE)
    names = [name for name, _ in lines]
    assert len(names) == len(set(names)), "a name is there twice"
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in lines}


def rows(file: str, macro: str, n_fields: int) -> list[list[str]]:
    text = (ROOT / "src/operators" / file).read_text()
    lines = re.findall(rf"^{macro}\((.*)\)$", text, re.MULTILINE)
    assert len(lines) == len(re.findall(rf"^{macro}\(", text, re.MULTILINE)) > 0
    found = [[quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|([^\s",][^",]*)', line)] for line in lines]
    assert all(len(fields) == n_fields for fields in found)
    return found


def words(cell: str) -> set[str]:
    return set(re.findall(r"[\w-]+", cell)) - {"-"}


def test_operators():
    known = table("Classes")
    operators = rows("operators.inc", "OPERATOR", 7)
    for module, name, kind, devices, families, kwargs, _ in operators:
        shown_kind, shown_devices, shown_families, shown_kwargs, here = known[f"{module}.{name}"]
        assert shown_kind == kind
        assert words(shown_devices) == set(devices.split())
        assert words(shown_families) == ({"all"} if families == "*" else set(families.split()))
        assert words(shown_kwargs) == set(kwargs.split())
        assert here.startswith("implemented for GPUs: " if devices == "cuda" else "implemented: ")
    refused = rows("refused.inc", "REFUSED", 2)
    for name, why in refused:
        assert known[name] == [f"refused: {why}"]
    for name, why in rows("refused.inc", "REDUCED", 2):
        assert why in known[name][-1]
    assert set(known) == {f"{row[0]}.{row[1]}" for row in operators} | {name for name, _ in refused} | ELSEWHERE


def test_keyword_arguments():
    known = table("Keyword arguments")
    kwargs = rows("kwargs.inc", "KWARG", 5)
    for name, _, values, effect, meaning in kwargs:
        shown_values, here = known.pop(name)
        assert {v.lower() for v in words(shown_values)} >= {v.lower() for v in values.split()}
        assert here == ("implemented: " if effect == "kUsed" else "accepted without effect: ") + meaning
    assert known and all(here.startswith("refused: ") for _, here in known.values())


def test_keys_of_a_rule():
    assert set(table("Keys of a rule")) == {"match", "match.name", "match.class", "replace", "replace.class",
                                            "replace.kwargs", "replace.device", "recursive"}


def test_templates():
    assert set(table("Templates")) == {str(p.relative_to(ROOT / "rules")) for p in (ROOT / "rules").rglob("*.yaml")}
