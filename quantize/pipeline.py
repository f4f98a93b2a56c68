"""Makes of a checkpoint a folder of quantized files with a manifest: the work behind ``make quantize``.

Each recipe is one streamed pass over the checkpoint. A killed run leaves whole files only, and the next run keeps what
is finished. This module knows recipes and writers, but no tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mimo_mobile import files, manifest, onnxruntime_library
from mimo_mobile.convert.calibrated import Calibrated
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.formats import F32
from mimo_mobile.convert.model import origin
from mimo_mobile.convert.npu.pieces import WINDOWS, checked
from mimo_mobile.convert.weight_values import check_values
from mimo_mobile.entries import Effort, Entry, Part
from mimo_mobile.errors import BadArgumentError, MimoMobileError, MissingDependencyError
from mimo_mobile.hub import Source, resolve
from mimo_mobile.layout import ONNX_FOLDER
from mimo_mobile.manifest import Manifest
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.progress import ProgressCallback, ignore
from mimo_mobile.quantize import disjoint, evaluate, kept_work, npu_plan, preflight, rejection, report_data
from mimo_mobile.quantize.calibrate import Statistics
from mimo_mobile.quantize.calibrator import Calibrator
from mimo_mobile.quantize.divergences import divergences, with_divergences
from mimo_mobile.quantize.gate import DEFAULTS, Limits
from mimo_mobile.quantize.given import Given, check_effects
from mimo_mobile.quantize.importance import write_importance
from mimo_mobile.quantize.preflight import IMPORTANCE
from mimo_mobile.quantize.recipe_file import calibration_ids, write_model
from mimo_mobile.quantize.recipes import Recipe, recipe_named
from mimo_mobile.quantize.scoring import scored
from mimo_mobile.runtime.endpoint import Endpoint
from mimo_mobile.socs import Soc


@dataclass(frozen=True, slots=True)
class NpuTarget:
    """The NPUs to compile for, and how.

    Attributes:
        socs: The chips to compile for.
        context_length: How many tokens prompt and answer may have together, which compiling fixes; None takes the
            model's context length, but at most 4096.
        windows: How many tokens are computed in one run: of a prompt, and 2 and 1 unless the CPU computes tokens.
        quantized: Whether activations are uint16, for NPUs that compute with nothing else.
        shared: Whether the windows of a piece have one copy of its weights, as phones load them.
        memory_bytes: What compiling may take, which decides how many layers a piece has; None is three quarters of
            this machine's memory.
    """

    socs: tuple[Soc, ...]
    context_length: int | None = None
    windows: tuple[int, ...] = WINDOWS
    quantized: bool = False
    shared: bool = False
    memory_bytes: int | None = None


def quantize_checkpoint(
    source: Source | str | Path,
    out: str | Path,
    recipes: Sequence[str],
    *,
    force: bool = False,
    problems: int | None = None,
    single_file: bool = False,
    npu: NpuTarget | None = None,
    effort: Effort = "normal",
    calibration: Path | None = None,
    importance: Path | None = None,
    endpoint: Endpoint | None = None,
    limits: Mapping[str, Limits] = DEFAULTS,
    tokens: int = 0,
    progress: ProgressCallback = ignore,
) -> Manifest:
    """Quantize a checkpoint into ``out`` by each recipe, score the results, and set aside what lost too much.

    Args:
        source: The checkpoint: ``nano``, a folder or a hub id.
        out: The folder for this checkpoint's files; it is made if it is not there.
        recipes: The names of the recipes, e.g. ``["q4_0", "int4_b32"]``.
        force: Whether to make finished recipes anew and to remove another checkpoint's files from ``out``.
        problems: How many of the held-out problems to answer; 0 is none, None is all.
        single_file: Whether a GGUF file holds both the trunk and the MTP layer, which stock llama.cpp can draft with.
        npu: The chips to compile the ONNX recipes' models for; None compiles for none.
        effort: With ``none`` weights are rounded to the nearest level, whatever reads them. With ``normal`` channels
            are balanced, and levels are searched for, by what the checkpoint computes for a text. With ``high`` the
            errors of some columns are also made good by others.
        calibration: The text; ours by default.
        importance: An importance matrix in llama.cpp's form, by which alone errors are weighed.
        endpoint: A server that runs the checkpoint, and answers what the highest effort asks.
        limits: What each recipe may lose at most, by name.
        tokens: How many tokens of a text are read to compare predictions with bf16's; 0 compares none. Random weights
            are never compared.
        progress: A function that is called often.

    Raises:
        BadArgumentError: An option would have no effect, see ``check_options``, ``check_effects`` and ``questions_of``.
        BackendUnavailableError: QNN does not take the model.
        CheckpointError: The checkpoint cannot be used.
        QuantizationError: A recipe is unknown or cannot be applied.
        OutputExistsError: ``out`` holds something else.
    """
    out, source = Path(out), resolve(source)
    chosen = [recipe_named(name) for name in dict.fromkeys(recipes)]
    if npu is not None and npu.quantized:
        chosen = [dataclasses.replace(each, in_units=each.int4) for each in chosen]
    check_options(recipes, single_file, npu)
    check_effects(recipes, effort, calibration, importance, endpoint)
    questions = questions_of(source, problems)
    checkpoint = Checkpoint.open(source.path)
    context = _checked(npu, checkpoint) if npu is not None else 0
    given = Given.read(checkpoint, effort, calibration, importance, endpoint)
    outputs = [(recipe, out / _name(source, recipe, single_file)) for recipe in chosen]
    binaries = _binaries(npu, chosen, checkpoint)
    job = preflight.Job(checkpoint, outputs, single_file, given, bool(questions), binaries)
    preflight.check_checkpoint(job)

    with files.locked(out):
        files.remove_partials(out)
        manifest.check(out, source, force=force, progress=progress)
        before = _settled(out)
        todo = outputs if force or before is None else [each for each in outputs if not _made(before, *each, given)]
        same = before is not None and manifest.is_of(before, source, progress)
        preflight.check_folder(dataclasses.replace(job, outputs=todo), out, before, same=same)
        if todo:
            check_values(checkpoint.tensors.values(), progress)
        state = manifest.start(out, source, force=force, progress=progress)
        fingerprint = state.source[manifest.FINGERPRINT]
        calibrator = Calibrator(checkpoint, given, chosen, out / kept_work.NAME, fingerprint, progress)
        for recipe, path in outputs:
            if (recipe, path) in todo:
                found = calibrator.calibrated(recipe)  # which takes long: an earlier file stays meanwhile
                old, gone = state.entry(recipe.name), state.rejection(recipe.name)
                kind = ONNX_FOLDER if recipe.target == "onnx" else None
                if kind and old and old.path == path.name and not kind.is_marked(path):
                    manifest.remove(out, old)  # a damaged folder of ours, which nothing else tells from a stranger's
                files.replaceable(path, force=True, kind=kind)
                if gone is not None:
                    manifest.remove(out, gone.aside)
                state = state.without(recipe.name)
                state.write(out)
                if found is not None:
                    disjoint.remember(out, calibrator.statistics.texts, others=bool(state.entries or state.rejected))
                    if given.importance is None and effort != "none":
                        _keep_importance(out, calibrator.statistics, checkpoint.config)
                made = _quantize(checkpoint, source, path, recipe, single_file, effort, found, progress)
                made = dataclasses.replace(made, calibrated_by=calibrator.calibrated_by(recipe))
                state = state.with_entry(made)
                state.write(out)
                if old is not None and old.path != path.name:
                    manifest.remove(out, old, kept=made.parts)
            if npu is not None and recipe.target == "onnx" and state.entry(recipe.name):
                state = _compile(state, out, recipe, npu, context, given.texts, force, progress)
        names, known = [recipe.name for recipe in chosen], report_data.earlier(out, state)
        answers: dict[str, list[tuple[int, ...]]] = {}
        if questions:
            state = scored(state, source, checkpoint, out, names, questions, answers, progress)
            state.write(out)
        tokens = 0 if manifest.SYNTHETIC in state.source else tokens
        apart = divergences(out, state, names, source, tokens, progress)
        for entry in state.entries:
            state = state.with_entry(with_divergences(entry, apart))
        state.write(out)
        histograms = {name: each.histogram for name, each in apart.items() if each.histogram}
        errors = report_data.errors_of(out, state, names, checkpoint, calibrator, known, progress)
        state = rejection.judged(out, state, names, limits, errors)
        shown = report_data.shown_answers(state, checkpoint, questions, answers, known)
        report_data.write_report(out, state, names, limits, errors, histograms, shown, known)
        files.remove(out / kept_work.NAME)  # until here, a killed run can go on
        return state


def _keep_importance(out: Path, statistics: Statistics, config: MimoConfig) -> None:
    """Write what calibration saw beside the files, for llama.cpp's tools, where the package that writes it is there."""
    with suppress(MissingDependencyError):
        tokens = sum(map(len, statistics.texts))
        write_importance(
            out / IMPORTANCE, statistics.mean_squares, config, tokens=tokens, datasets=["mimo-mobile"], force=True
        )


def check_options(recipes: Sequence[str], single_file: bool, npu: NpuTarget | None) -> None:
    """Check that every option has an effect.

    Raises:
        BadArgumentError: An option would have none, or cannot be had with these recipes.
        QuantizationError: A recipe is unknown.
    """
    chosen = [recipe_named(name) for name in recipes]
    onnx = [recipe for recipe in chosen if recipe.target == "onnx"]
    if single_file and len(onnx) == len(chosen):
        raise BadArgumentError(
            "--single-file is for GGUF recipes, none of which was asked for; add e.g. q4_0 to --recipe"
        )
    if npu is None:
        return
    target = "qdq" if npu.quantized else "qnn"
    if not onnx:
        raise BadArgumentError(
            f"--target {target} compiles ONNX recipes, none of which was asked for; add e.g. int4_b32 to --recipe"
        )
    wrong = [recipe.name for recipe in onnx if not recipe.int4 or recipe.activations is not F32]
    if npu.quantized and wrong:
        raise BadArgumentError(
            f"--target qdq compiles int4 weights with float32 activations, which {', '.join(wrong)} does not have;"
            " take e.g. int4_b32"
        )


def questions_of(source: Source, limit: int | None) -> list[evaluate.Problem]:
    """The checkpoint's held-out problems, at most ``limit`` of them, or all when it is None.

    Raises:
        BadArgumentError: Problems are asked for, but the checkpoint brings none.
        CheckpointError: The file with the problems is damaged.
    """
    questions = evaluate.read_problems(source.path)
    if limit and not questions:
        raise BadArgumentError(f"--problems {limit}: {source.path} brings no held-out problems ({evaluate.HELDOUT})")
    return questions if limit is None else list(evaluate.problems_of_kinds(questions, limit)) if limit else []


def _checked(npu: NpuTarget, checkpoint: Checkpoint) -> int:
    """The context length to compile for; what would make compiling fail in the end is an error here already."""
    from mimo_mobile import providers

    providers.register(onnxruntime_library.load(), providers.PROVIDERS["qnn"])
    return checked(npu.context_length, npu.windows, checkpoint.config.max_position_embeddings).context_length


def _binaries(npu: NpuTarget | None, recipes: Sequence[Recipe], checkpoint: Checkpoint) -> dict[str, int]:
    """What is compiled of each recipe's model in bytes, by its name."""
    if npu is None:
        return {}
    asked = npu_plan.Asked(npu.context_length, npu.windows, npu.shared, npu.memory_bytes)
    onnx = [each for each in recipes if each.target == "onnx"]
    return {each.name: len(npu.socs) * npu_plan.binaries_bytes(each, checkpoint.config, asked) for each in onnx}


def _name(source: Source, recipe: Recipe, single_file: bool) -> str:
    end = "-onnx" if recipe.target == "onnx" else "-single.gguf" if single_file else ".gguf"
    return f"{source.name}-{recipe.name}{end}"


def _settled(out: Path) -> Manifest | None:
    """The folder's manifest, after what a killed run did not rename; None when there is none that can be read."""
    try:
        state = manifest.read(out)
    except MimoMobileError:
        return None
    if state is not None:
        rejection.settle(out, state)
    return state


def _made(state: Manifest, recipe: Recipe, path: Path, given: Given) -> bool:
    """Whether a recipe's files are there, or set aside, and were made by what was given."""
    entry, gone = state.entry(recipe.name), state.rejection(recipe.name)
    if gone is not None:
        return given.made(gone.entry, recipe) and rejection.is_set_aside(path.parent, gone, path)
    if entry is None or entry.path != path.name or not given.made(entry, recipe):
        return False
    parts = [(path.parent / part.path, part.size_bytes) for part in entry.parts]
    return all(file.is_file() and file.stat().st_size == size for file, size in parts)


def _quantize(
    checkpoint: Checkpoint,
    source: Source,
    path: Path,
    recipe: Recipe,
    single_file: bool,
    effort: Effort,
    calibrated: Calibrated | None,
    progress: ProgressCallback,
) -> Entry:
    out = path.parent
    written, ranges = write_model(checkpoint, path, recipe, origin(source), progress, single_file, calibrated)
    paths = sorted(
        path for each in written for path in ([each] if each.is_file() else each.rglob("*")) if path.is_file()
    )
    parts = tuple(manifest.part(out, path, progress) for path in paths)
    size = sum(part.size_bytes for part in parts)
    weights = sum(part.size_bytes for part in parts if part.path.endswith((".gguf", ".data")))
    return Entry(
        recipe=recipe.name,
        format=recipe.target,
        path=written[0].relative_to(out).as_posix(),
        bits_per_weight=8 * weights / checkpoint.num_parameters,
        size_bytes=size,
        parts=parts,
        tools=manifest.tool_versions(),
        effort=effort,
        ranges=ranges,
    )


def _compile(
    state: Manifest,
    out: Path,
    recipe: Recipe,
    npu: NpuTarget,
    context: int,
    texts: Sequence[Sequence[int]],
    force: bool,
    progress: ProgressCallback,
) -> Manifest:
    """The manifest, in which the parts of a recipe's entry include binaries for the chips."""
    from mimo_mobile.convert.npu.file import compile_for_npu, is_compiled
    from mimo_mobile.layout import EMBEDDING, npu_folder_name
    from mimo_mobile.quantize.npu_keys import key_centers
    from mimo_mobile.quantize.npu_ranges import activation_ranges

    entry = state.entry(recipe.name)
    assert entry is not None
    folder = out / entry.path
    files.remove_partials(folder)
    how = (context, npu.windows, npu.quantized, npu.shared)
    todo = [soc for soc in npu.socs if force or not is_compiled(folder, soc, *how)]
    centers = key_centers(folder, calibration_ids(folder)[:context], context, progress) if todo else {}
    ranges = activation_ranges(folder, texts, centers, progress) if npu.quantized and todo else None
    for soc in todo:
        made = folder / npu_folder_name(soc, npu.quantized)
        old = [made.relative_to(out).as_posix() + "/", f"{entry.path}/{EMBEDDING}"]
        kept = [part for part in entry.parts if not part.path.startswith(tuple(old))]
        state = state.with_entry(_with_parts(entry, kept))
        state.write(out)  # each entry is true at any moment
        compile_for_npu(
            folder,
            soc,
            context_length=context,
            windows=npu.windows,
            ranges=ranges,
            centers=centers,
            shared=npu.shared,
            memory_bytes=npu.memory_bytes,
            force=True,
            progress=progress,
        )
        new = [folder / EMBEDDING, *sorted(made.iterdir())]
        entry = _with_parts(entry, [*kept, *(manifest.part(out, path, progress) for path in new)])
        state = state.with_entry(entry)
        state.write(out)
    return state


def _with_parts(entry: Entry, parts: Sequence[Part]) -> Entry:
    """The entry with other files; what was measured of a form for NPUs belongs to those of before."""
    size = sum(part.size_bytes for part in parts)
    return dataclasses.replace(entry, parts=tuple(parts), size_bytes=size, on_npu=None)
