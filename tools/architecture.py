"""The pictures of docs/architecture.md, drawn from the code: ``python -m tools.architecture docs/images``.

The folders, their files, their sentences (the first line of a package's docstring) and who imports whom are read from
the sources. Only the order of the stages and what goes from one to the next are written here.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.svg import Arrow, Box, drawing

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "mimo_mobile"

STAGES = ("convert", "quantize", "runtime")
DATA = (
    "checkpoint: config.json, *.safetensors, tokenizer.json",
    "tensors and graphs, whose weights are read when they are written",
    "quantized file: .gguf, or an ONNX folder, with manifest.json",
    "tokens: text, channel, and why the answer ended",
)
"""What goes into the first stage, from each stage to the next, and out of the last one."""


@dataclass(frozen=True, slots=True)
class Module:
    """A source file.

    Attributes:
        name: As it is imported.
        path: The file.
        imports: Modules of ours that it imports when it runs; those for type checkers only are left out.
    """

    name: str
    path: Path
    imports: frozenset[str]


def modules(root: Path = ROOT) -> dict[str, Module]:
    """Every module of the package by its name."""
    shared = root / "src" / PACKAGE
    places = [(PACKAGE, shared, shared.glob("*.py"))]
    places += [(f"{PACKAGE}.{stage}", root / stage, (root / stage).rglob("*.py")) for stage in STAGES]
    paths: dict[str, Path] = {}
    for package, folder, files in places:
        for file in sorted(files):
            parts = file.relative_to(folder).with_suffix("").parts
            paths[".".join([package, *parts]).removesuffix(".__init__")] = file
    return {name: Module(name, path, frozenset(_imports(path, paths))) for name, path in paths.items()}


def _imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    for node in _run_time(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield from (name for name in [submodule if submodule in known else node.module] if name in known)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)


def _run_time(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING:``."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield from _run_time(child)


def arrows(groups: dict[str, Sequence[Module]]) -> list[Arrow]:
    """Which group imports which, and by how many imports of a file by a file."""
    home = {module.name: group for group, members in groups.items() for module in members}
    found: dict[tuple[str, str], int] = {}
    for group, members in groups.items():
        for target in (name for module in members for name in module.imports):
            if home.get(target, group) != group:
                found[group, home[target]] = found.get((group, home[target]), 0) + 1
    return [Arrow(source, target, count) for (source, target), count in sorted(found.items())]


def users_first(groups: Sequence[str], found: Sequence[Arrow]) -> list[str]:
    """The groups in an order in which as many arrows as possible point down."""
    order: list[str] = []
    while left := [group for group in groups if group not in order]:

        def users(group: str, left: Sequence[str] = left) -> tuple[int, int]:
            above = sum(arrow.target == group and arrow.source in left for arrow in found)
            return above, -sum(arrow.source == group and arrow.target in left for arrow in found)

        order.append(min(left, key=users))
    return order


def _sentence(folder: Path) -> str:
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    return docstring.splitlines()[0]


def _files(members: Sequence[Module]) -> str:
    return " · ".join(module.path.name for module in members if module.path.name != "__init__.py")


def _wings(stage: Path) -> list[Path]:
    return sorted(path.parent for path in stage.glob("*/__init__.py"))


def _stage(name: str) -> str | None:
    part = name.split(".")[1:2]
    return part[0] if part and part[0] in STAGES else None


def stages_picture() -> str:
    """The data's way through the stages, and which stage knows which."""
    found = modules()
    used = set[str]()
    new = {name for module in found.values() if _stage(module.name) for name in module.imports if not _stage(name)}
    while new:
        used |= new
        new = {name for user in new for name in found[user].imports if not _stage(name)} - used
    shared = [found[name] for name in sorted(used)]
    entries = [module for module in found.values() if not _stage(module.name) and module not in shared]
    groups: dict[str, Sequence[Module]] = {"entries": entries}
    groups |= {stage: [module for module in found.values() if _stage(module.name) == stage] for stage in STAGES}
    groups["shared"] = shared
    boxes = [Box("entries", "src/mimo_mobile/", "The way in: no stage knows these files.", ((None, _files(entries)),))]
    for stage, data in zip(STAGES, DATA, strict=False):
        own = [module for module in groups[stage] if module.path.parent == ROOT / stage]
        rows = ((None, _files(own)), *((f"{wing.name}/", _sentence(wing)) for wing in _wings(ROOT / stage)))
        boxes.append(Box(None, data, flows=True))
        boxes.append(Box(stage, f"{stage}/", _sentence(ROOT / stage), rows, flows=True))
    boxes.append(Box(None, DATA[-1]))
    boxes.append(Box("shared", "src/mimo_mobile/", "What all stages share.", ((None, _files(shared)),)))
    return drawing("The way of the data, from a checkpoint to tokens", boxes, arrows(groups))


def wings_picture() -> str:
    """The wings of runtime/, and which wing knows which; arrows point down as far as they can."""
    found = [module for module in modules().values() if _stage(module.name) == "runtime"]
    folder = ROOT / "runtime"
    own = [module for module in found if module.path.parent == folder]
    wings = {wing.name: [module for module in found if module.path.parent == wing] for wing in _wings(folder)}
    by_wings = {name for members in wings.values() for module in members for name in module.imports}
    groups: dict[str, Sequence[Module]] = {
        "top": [module for module in own if module.name not in by_wings],
        **wings,
        "base": [module for module in own if module.name in by_wings],
    }
    found_arrows = arrows(groups)
    texts = {
        "top": ("runtime/", "What opens a model: no wing knows these files."),
        "base": ("runtime/", "What the wings have in common."),
    } | {name: (f"{name}/", _sentence(folder / name)) for name in wings}
    order = users_first(list(groups), found_arrows)
    boxes = [Box(name, *texts[name], ((None, _files(groups[name])),)) for name in order]
    return drawing("The wings of runtime/ and who imports whom", boxes, found_arrows)


PICTURES = {"architecture.svg": stages_picture, "runtime.svg": wings_picture}

if __name__ == "__main__":
    for file, picture in PICTURES.items():
        (Path(sys.argv[1]) / file).write_text(picture(), encoding="utf-8")
