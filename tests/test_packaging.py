import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_lower_bounds_are_the_versions_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needs = project["dependencies"] + extras["endpoint"] + extras["approximate"]
    bounds = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", need).groups() for need in needs)
    pins = (ROOT / ".ci" / "lowest.txt").read_text().splitlines()
    assert bounds == dict(line.split("==") for line in pins if "==" in line)


def test_torch_is_never_imported_by_the_package():
    for file in (ROOT / "ilpjax").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) torch\b", file.read_text(), re.M), file


def test_no_private_jax():
    for file in [*(ROOT / "ilpjax").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        assert not re.search(r"\b(from|import) \w+\._src\b", file.read_text()), file


def test_floors_import_only_what_lies_below():
    floors = [
        {"errors", "rows", "settings", "config", "rundir", "progress", "ahead"},
        {"parallel"},
        {"models"},
        {"data"},
        {"train"},
        {"scoring"},
        {"knowledge"},
        {"conflicts"},
        {"detect"},
        {"diagnose"},
        {"worlds", "report", "plan", "bench", "robust"},
        {"pipeline"},
        {"evaluate", "cli"},
    ]
    level = {room: n for n, rooms in enumerate(floors) for room in rooms}
    for file in (ROOT / "ilpjax").rglob("*.py"):
        room = file.relative_to(ROOT / "ilpjax").parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for other, inside in re.findall(r"^from ilpjax\.(\w+)(\.\w+)? import", file.read_text(), re.M):
            assert level[other] <= level[room], f"{file}: {room} imports {other}"
            assert other == room or not inside, f"{file}: {other}{inside} is not the package {other}"
