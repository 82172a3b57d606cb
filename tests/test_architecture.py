"""The house rules that a machine can hold: import arrows, file length, no shadowing packages."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 400
# A package may import those of its own row and of every row above it.
LAYERS = [
    {"errors"},
    {"config"},
    {"distributed"},
    {"data", "model"},
    {"checkpoint", "objectives", "optim"},
    {"evaluation"},
    {"train"},
    {"supervise"},
    {"cli", "__main__"},
]
DATA_TOOLS_MAY_IMPORT = {
    "megaxlm.data.shards",
    "megaxlm.data.special_tokens",
    "megaxlm.data.tokenizer",
    "megaxlm.config",
    "megaxlm.errors",
}


def sources() -> list[Path]:
    """Every tracked or new source file of the project."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    suffixes = {".py", ".sh", ".cpp", ".cu", ".cuh", ".h"}
    found = [ROOT / name for name in listed if Path(name).suffix in suffixes]
    return [path for path in found if path.exists()]


def imports(path: Path) -> set[str]:
    """Names of the modules that a file imports, whether at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def python_files(folder: str) -> list[Path]:
    return [
        path for path in sources() if path.suffix == ".py" and path.is_relative_to(ROOT / folder)
    ]


def test_there_are_sources_to_look_at() -> None:
    assert len(python_files("megaxlm")) > 20
    assert len(python_files("data_tools/megaxlm_data")) > 10


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_under_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_imports_go_one_way() -> None:
    row_of = {name: row for row, names in enumerate(LAYERS) for name in names}
    wrong = []
    for path in python_files("megaxlm"):
        own = path.relative_to(ROOT / "megaxlm").parts[0].removesuffix(".py")
        if own in ("__init__", "testing"):
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "megaxlm" and len(parts) > 1 and parts[1] in row_of:
                allowed = row_of[parts[1]] < row_of[own] or parts[1] == own
                if not (allowed or {own, parts[1]} == {"cli", "__main__"}):
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_no_package_outside_tests_imports_testing_tools() -> None:
    wrong = [
        str(path)
        for path in python_files("megaxlm") + python_files("data_tools/megaxlm_data")
        if "testing" not in path.parts
        and any(name.startswith("megaxlm.testing") for name in imports(path))
    ]
    assert wrong == []


def test_only_the_engine_room_imports_deepspeed() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in python_files("megaxlm")
        if not path.is_relative_to(ROOT / "megaxlm" / "train")
        and any(name.split(".")[0] == "deepspeed" for name in imports(path))
    ]
    assert wrong == []


def test_only_the_command_line_imports_data_tools() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in python_files("megaxlm")
        if path.name != "cli.py"
        and any(name.split(".")[0] == "megaxlm_data" for name in imports(path))
    ]
    assert wrong == []


def test_kernels_import_torch_alone() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in python_files("kernels/megaxlm_kernels")
        for name in imports(path)
        if name.split(".")[0] in ("megaxlm", "megaxlm_data", "deepspeed", "transformers")
    ]
    assert wrong == []


def test_data_tools_import_the_contract_alone() -> None:
    wrong = []
    for path in python_files("data_tools/megaxlm_data"):
        for name in imports(path):
            if name == "megaxlm" or name.startswith("megaxlm."):
                known = any(
                    name == allowed or name.startswith(allowed + ".")
                    for allowed in DATA_TOOLS_MAY_IMPORT
                )
                # `from megaxlm.data import shards` shows as megaxlm.data too.
                if not known and name not in ("megaxlm", "megaxlm.data"):
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_homes_are_no_packages() -> None:
    # A top-level package called `kernels` would shadow Hugging Face's and break transformers.
    homes = ["kernels", "data_tools", "launch", "configs", "tests", "docker"]
    assert [name for name in homes if (ROOT / name / "__init__.py").exists()] == []


def test_top_level_is_as_fixed() -> None:
    allowed = {"pyproject.toml", "README.md", "megaxlm", "kernels", "data_tools", "launch"}
    allowed |= {"configs", "tests", "docker", ".ci", ".gitignore", "LICENSE"}
    tops = {path.relative_to(ROOT).parts[0] for path in sources()}
    assert tops <= allowed
