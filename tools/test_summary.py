"""Adds up the results of ./dev test: prints what failed and how, and the last line: "N passed, N failed".

Reads, in the given folder: <stage>-ctest.xml with the GoogleTest files <stage>/*.xml beside it, python.xml and plugin.xml
of pytest, and stages.txt with lines "pass NAME" or "fail NAME". A test program that ctest calls failed although
its own file shows no failure (a crash, a sanitizer report, a time-out) counts as one failure.
"""
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


SHOWN_LINES = 15  # of a failure, its last


def show_failure(stage: str, case: ElementTree.Element) -> None:
    name = ".".join(filter(None, (case.get("classname"), case.get("name"))))
    print(f"FAILED {stage}: {name}")
    for tag in ("failure", "error"):
        if (found := case.find(tag)) is not None:
            lines = (found.text or found.get("message") or "").rstrip().splitlines()
            print("".join(f"    {line}\n" for line in lines[-SHOWN_LINES:]), end="")


def count_suites(path: pathlib.Path, stage: str) -> tuple[int, int, int]:
    """(passed, failed, skipped) of the test cases in one JUnit-like file."""
    passed = failed = skipped = 0
    for case in ElementTree.parse(path).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
            show_failure(stage, case)
        elif (case.find("skipped") is not None or case.get("status") == "notrun"
              or case.get("result") == "skipped"):
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def count_ctest(path: pathlib.Path, cases: pathlib.Path, stage: str) -> tuple[int, int, int]:
    total = [0, 0, 0]
    for program in ElementTree.parse(path).iter("testcase"):
        failed = program.find("failure") is not None or program.get("status") != "run"
        own = cases / f"test_{program.get('name')}.xml"
        try:
            counts = count_suites(own, stage)
        except (OSError, ElementTree.ParseError):
            counts = (0, 0, 0) if failed else (1, 0, 0)
        if failed and counts[1] == 0:
            counts = (counts[0], 1, counts[2])
            print(f"FAILED {stage}: {program.get('name')} ended by itself (crash, sanitizer or time-out)")
        total = [a + b for a, b in zip(total, counts)]
    return total[0], total[1], total[2]


def main() -> int:
    folder = pathlib.Path(sys.argv[1])
    total = [0, 0, 0]
    parts = []
    for path in sorted(folder.glob("*.xml")):
        stage = path.name.removesuffix(".xml").removesuffix("-ctest")
        is_ctest = path.name.endswith("-ctest.xml")
        counts = (count_ctest(path, folder / stage, stage) if is_ctest
                  else count_suites(path, stage))
        parts.append(f"{stage} {counts[0]}/{sum(counts)}")
        total = [a + b for a, b in zip(total, counts)]
    for stage in ("python", "plugin"):
        if not (folder / f"{stage}.xml").exists():
            parts.append(f"{stage} did not report")
            total[1] += 1
    stages = folder / "stages.txt"
    if stages.exists():
        for line in stages.read_text().splitlines():
            total[0 if line.startswith("pass ") else 1] += 1
            if not line.startswith("pass "):
                parts.append(line)
    print("passed by stage: " + ", ".join(parts))
    print(f"{total[0]} passed, {total[1]} failed" + (f", {total[2]} skipped" if total[2] else ""))
    return 1 if total[1] or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main())
