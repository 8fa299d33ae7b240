"""Imports run one way: from the command line down to the types, never up and never in a circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from small_model import ROOT

#: The rooms from the top to the bottom. A room imports rooms below its own line only; rooms of one line do
#: not know each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("anomaly.__main__",),
    ("anomaly.cli",),
    ("anomaly.commands", "anomaly.failures"),
    ("anomaly.config", "anomaly.conveyor", "anomaly.edge", "anomaly.review", "anomaly.first_start", "anomaly.benching", "anomaly.verbs"),
    ("anomaly.report", "anomaly.fitting"),
    ("anomaly.exporting",),
    ("anomaly.evaluation", "anomaly.gate", "anomaly.reissue"),
    ("anomaly.banks", "anomaly.evidence_collection", "anomaly.recertification"),
    ("anomaly.explanation", "anomaly.moments", "anomaly.scoring", "anomaly.thresholds"),
    ("anomaly.evidence", "anomaly.looks", "anomaly.scores"),
    ("anomaly.exemplars", "anomaly.model", "anomaly.splits"),
    ("anomaly.exported",),
    ("anomaly.calibration", "anomaly.detector", "anomaly.footage", "anomaly.weights"),
    ("anomaly.artifact", "anomaly.backbone", "anomaly.decider", "anomaly.heatmap", "anomaly.metrics", "anomaly.projection",
     "anomaly.regions", "anomaly.weights_import", "export", "memory_bank"),
    ("anomaly.extractor", "anomaly.resize"),
    ("anomaly.locks", "anomaly.privacy"),
    ("anomaly.errors", "anomaly.startup", "anomaly.types"),
    ("configs",),
)  # fmt: skip
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def modules() -> dict[str, Path]:
    found = {}
    for package in ("anomaly", "memory_bank", "export", "configs"):
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = path
    return found


MODULES = modules()


def imports(name: str, *, at_start_only: bool = False) -> set[str]:
    """Modules that a module names in an import, wherever it stands (TYPE_CHECKING and functions included)."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body if at_start_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively; write the whole name"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else str(node.module))
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "anomaly" and len(parts) > 1 else parts[0]


def test_every_room_has_its_layer():
    rooms = {room(name) for name in MODULES} - {"anomaly"}
    assert rooms == set(LEVEL)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_downward(name: str):
    here = room(name)
    for imported in imports(name) & MODULES.keys():
        there = room(imported)
        if there != here:
            assert LEVEL[there] > LEVEL[here], f"{name} imports {imported}, which is not below it"


def test_no_module_imports_itself_through_others():
    graph = {name: imports(name, at_start_only=True) & MODULES.keys() - {name} for name in MODULES}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_the_memory_bank_knows_nothing_of_the_application():
    for name in MODULES:
        if name.startswith("memory_bank"):
            roots = {imported.split(".")[0] for imported in imports(name)}
            assert not roots & {"anomaly", "configs", "hydra", "omegaconf", "torch", "cv2", "av"}, name


def test_the_export_knows_nothing_of_the_application():
    for name in MODULES:
        if name.split(".")[0] == "export":
            roots = {imported.split(".")[0] for imported in imports(name)}
            assert not roots & {"anomaly", "memory_bank", "configs", "hydra", "omegaconf", "cv2", "av"}, name


def test_only_making_a_graph_needs_torch():
    users = {
        name
        for name in MODULES
        if name.split(".")[0] == "export" and {"torch", "onnx"} & {one.split(".")[0] for one in imports(name)}
    }
    assert users == {"export.explicit", "export.onnx", "export.quantise"}


@pytest.mark.parametrize(
    ("package", "rooms"),
    [
        ("hydra", {"anomaly.cli", "anomaly.config", "anomaly.commands"}),
        ("omegaconf", {"anomaly.cli", "anomaly.config", "anomaly.commands"}),
        ("torch", {"anomaly.backbone", "anomaly.weights", "anomaly.weights_import", "anomaly.model", "anomaly.fitting", "anomaly.exporting", "anomaly.gate", "anomaly.commands", "export"}),
        ("onnx", {"export", "anomaly.weights_import"}),
        ("onnxruntime", {"export"}),
        ("openvino", {"export"}),
        ("tensorrt", {"export"}),
        ("timm", {"anomaly.backbone", "anomaly.weights", "anomaly.weights_import"}),
        ("rich", {"anomaly.commands"}),
        ("av", {"anomaly.footage", "anomaly.edge"}),
        *((one, {"anomaly.edge"}) for one in ("paho", "apprise", "fastapi", "uvicorn", "starlette", "argon2", "prometheus_client")),
    ],
)  # fmt: skip
def test_a_library_stays_in_its_rooms(package: str, rooms: set[str]):
    users = {room(name) for name in MODULES if package in {one.split(".")[0] for one in imports(name)}}
    assert users <= rooms


def test_errors_and_types_import_nothing_heavy_when_they_load():
    for name in (
        "anomaly.errors",
        "anomaly.types",
        "anomaly.cli",
        "anomaly.failures",
        "anomaly.verbs",
        "anomaly.__main__",
        "anomaly",
    ):
        roots = {imported.split(".")[0] for imported in imports(name, at_start_only=True)}
        assert roots <= {
            "__future__",
            "anomaly",
            "argparse",
            "dataclasses",
            "difflib",
            "errno",
            "itertools",
            "os",
            "pathlib",
            "re",
            "sys",
            "typing",
        }


@pytest.mark.parametrize("name", ["anomaly.decider", "anomaly.calibration", "anomaly.metrics"])
def test_what_decides_needs_no_network_and_no_pictures(name: str):
    allowed = (
        {"numpy", "scipy", "sklearn", "cv2"} if name == "anomaly.metrics" else {"numpy", "scipy", "sklearn"}
    )
    for module in MODULES:
        if module == name or module.startswith(name + "."):
            roots = {one.split(".")[0] for one in imports(module)}
            assert not roots & ({"torch", "timm", "cv2", "av", "faiss", "matplotlib", "rich"} - allowed)
