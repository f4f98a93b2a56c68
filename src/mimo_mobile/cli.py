"""The command ``mimo``: parse, call one function, print; nothing else."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimo_mobile import __version__, ends
from mimo_mobile.cli_cache import cache
from mimo_mobile.cli_endpoint import EndpointCommand, endpoint_of, endpoint_options
from mimo_mobile.cli_eval import evaluate
from mimo_mobile.cli_npu import npu_plan, planned, target_of
from mimo_mobile.cli_options import (
    Output,
    Phone,
    built,
    generation_options,
    load_config,
    load_options,
    npu_options,
    show_log,
    single_file,
    structure_of,
    structure_options,
)
from mimo_mobile.cli_plan import plan
from mimo_mobile.cli_quantize import quantize, report_compiled
from mimo_mobile.cli_recipes import recipes
from mimo_mobile.cli_serve import serve
from mimo_mobile.errors import BadArgumentError

if TYPE_CHECKING:
    from mimo_mobile.convert.model import Target
    from mimo_mobile.phones import Device
    from mimo_mobile.runtime import LoadConfig, Model


class _Group(click.Group):
    """Turns every failure that a user can mend into one line, and exit status 1 or, for a mistake in usage, 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BaseException as error:
            if (said := ends.cause(error)) is None:
                raise
            kind = click.UsageError if isinstance(error, BadArgumentError) else click.ClickException
            raise kind(said) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mimo")
def main() -> None:
    """Convert, quantize and run MiMo-7B on phones: GGUF and ONNX int4.

    The exit status is 0 when all went well, 1 when something failed or Ctrl-C ended it, and 2 when the options or
    arguments are wrong; SIGTERM and SIGHUP make it 143 and 129. The cause is one line on stderr.
    """


def _load(path: Path | None, config: LoadConfig) -> Model:
    from mimo_mobile.runtime import load

    assert path is not None  # click asks for MODEL where no server is named
    show_log()
    return load(path, config)


@main.command()
@click.argument("checkpoint")
@click.argument("out", type=Output())
@click.option("--to", "target", type=click.Choice(["gguf", "onnx"]), required=True, help="The format to write.")
@click.option(
    "--dtype",
    type=click.Choice(["f32", "f16", "bf16"]),
    help="The type of the weights [default: bf16 for gguf, f32 for onnx].",
)
@click.option(
    "--exporter",
    type=click.Choice(["direct", "optimum"]),
    default="direct",
    show_default=True,
    help="direct writes our own graph; optimum lets PyTorch export a plain fp32 graph, in an environment of its own.",
)
@single_file
@npu_options
@click.option(
    "--device", "phone", type=Phone(), help="Compile for the longest context that fits a phone, e.g. phone-12gb."
)
@click.option("--force", is_flag=True, help="Replace OUT.")
def convert(
    checkpoint: str,
    out: Path,
    target: Target,
    phone: Device | None,
    **options: Any,
) -> None:
    """Convert CHECKPOINT to OUT, a .gguf file or an ONNX folder. CHECKPOINT is nano, a folder or a hub id."""
    from mimo_mobile.convert.model import convert_checkpoint
    from mimo_mobile.hub import resolve
    from mimo_mobile.quantize.calibrator import statistics_of
    from mimo_mobile.terminal import progress_shown

    npu = target_of(options, phone)
    if npu and npu.quantized:
        raise click.UsageError("--target qdq compiles int4 weights; take mimo quantize")
    if npu and target != "onnx":
        raise click.UsageError("--target qnn compiles ONNX; add --to onnx")
    if phone and not npu:
        raise click.UsageError("--device chooses a context to compile for; add --target qnn")
    source = resolve(checkpoint)
    if npu:
        npu = planned(source, options["dtype"], npu, phone)
    with progress_shown() as progress:
        written = convert_checkpoint(
            source, out, to=target, progress=progress,
            calibrate=lambda checkpoint, told: statistics_of(checkpoint, progress=told).calibrated(), **options,
        )  # fmt: skip
        if npu:
            from mimo_mobile.convert.npu.file import compile_for_npu

            for chip in npu.socs:
                compile_for_npu(
                    out, chip, shared=npu.shared, memory_bytes=npu.memory_bytes, progress=progress,
                    context_length=npu.context_length, windows=npu.windows,
                )  # fmt: skip
    report_compiled(out)
    for path in written:
        click.echo(path)


@main.command()
@click.argument("out", type=Output())
@click.option(
    "--layers", type=click.IntRange(1, 36), default=36, show_default=True, help="How many layers the trunk has."
)
@click.option(
    "--tokenizer",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with a tokenizer.json of MiMo's type [default: MiMo-nano's].",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed gives the same weights."
)
@click.option("--force", is_flag=True, help="Replace OUT.")
def synth(out: Path, layers: int, tokenizer: Path | None, seed: int, force: bool) -> None:
    """Write random weights in MiMo-7B's shapes to OUT, to measure with. 36 layers of them take 15.7 GB."""
    from mimo_mobile.convert.synthetic import write_synthetic
    from mimo_mobile.terminal import progress_shown

    with progress_shown() as progress:
        written = write_synthetic(out, layers=layers, tokenizer=tokenizer, seed=seed, force=force, progress=progress)
    click.echo(written)


@main.command(cls=EndpointCommand)
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("prompt")
@click.option("--system", default="", help="System prompt [default: empty, as Xiaomi recommends].")
@click.option(
    "--raw",
    is_flag=True,
    help="Continue PROMPT as it stands, without the chat template; special tokens in it are real ones.",
)
@click.option("--hide-thinking", is_flag=True, help="Print the answer only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: thinking, answer, finish_reason, stats.")
@endpoint_options()
@structure_options
@generation_options
@load_options
def run(
    prompt: str, system: str, raw: bool, hide_thinking: bool, as_json: bool, model: Path | None = None, **options: Any
) -> None:
    """Answer PROMPT with MODEL. It is a .gguf file, an ONNX folder or a folder that `mimo quantize` wrote."""
    from mimo_mobile import terminal
    from mimo_mobile.runtime import GenerationConfig, Message

    server = endpoint_of(options, ["loop_guard"])
    options["structure"] = structure_of(options)
    loading, config = load_config(options), built(GenerationConfig, options)
    if raw and (system or not config.thinking):
        raise click.UsageError("--system and --no-thinking go through the chat template, which --raw leaves out")
    with server or _load(model, loading) as loaded:
        messages = prompt if raw else [Message("system", system), Message("user", prompt)]
        tokens = loaded.generate(messages, config)
        if as_json:
            terminal.print_json(terminal.collected(tokens))
        else:
            _, last = terminal.stream(tokens, hide_thinking=hide_thinking, cancel=loaded.cancel)
            if last.finish_reason == "cancelled":
                raise click.Abort


@main.command(cls=EndpointCommand)
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--system", default="", help="System prompt [default: empty, as Xiaomi recommends].")
@click.option("--hide-thinking", is_flag=True, help="Print the answers only.")
@endpoint_options()
@generation_options
@load_options
def chat(system: str, hide_thinking: bool, model: Path | None = None, **options: Any) -> None:
    """Talk with MODEL; /help lists commands. Ctrl-C stops an answer, Ctrl-D ends the conversation.

    When the input is no terminal, each line is a turn.
    """
    from mimo_mobile import terminal
    from mimo_mobile.chat_loop import Chat
    from mimo_mobile.runtime import Endpoint, GenerationConfig

    server = endpoint_of(options, ["loop_guard"])
    loading, config = load_config(options), built(GenerationConfig, options)
    with server or _load(model, loading) as loaded:
        show = partial(terminal.stream, hide_thinking=hide_thinking, cancel=loaded.cancel)
        resume = None if isinstance(loaded, Endpoint) else loaded.generate
        Chat(loaded, config, system=system, show=show, tell=terminal.tell, resume=resume).run(terminal.reader())


@main.command(cls=EndpointCommand)
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--prompt-tokens",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Tokens of the prompt to prefill.",
)
@click.option("--generate-tokens", type=click.IntRange(min=2), default=64, show_default=True, help="Tokens to decode.")
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How often to measure; the median is printed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@endpoint_options()
@load_options
def bench(
    prompt_tokens: int,
    generate_tokens: int,
    repeats: int,
    as_json: bool,
    model: Path | None = None,
    **options: Any,
) -> None:
    """Measure the speed and memory of MODEL on this machine, and what drafts gain; of a server, what arrives here."""
    from mimo_mobile import terminal
    from mimo_mobile.runtime import bench as measure

    if (server := endpoint_of(options, ["prompt_tokens"])) is not None:
        with server:
            seen = measure.bench_endpoint(server, generate_tokens=generate_tokens, repeats=repeats)
        terminal.record(seen, as_json=as_json)
        return
    loading = load_config(options)
    drafting = loading.speculate != "off"
    with _load(model, loading) as loaded:
        result = measure.bench(loaded, prompt_tokens=prompt_tokens, generate_tokens=generate_tokens, repeats=repeats)
        drafts = measure.bench_speculation(loaded, repeats=repeats) if drafting else None
    terminal.record(result, as_json=as_json, speculation=drafts)


@main.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option("--verify", is_flag=True, help="Compare the files of a quantized folder with its manifest's checksums.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(path: Path, tensors: bool, verify: bool, as_json: bool) -> None:
    """Say what a file or folder holds. PATH is a checkpoint, a .gguf file, an ONNX folder or a quantized folder."""
    from mimo_mobile import inspection, terminal

    if verify:
        click.echo(f"{inspection.verify(path)} files are as the manifest says", err=True)
    terminal.record(inspection.inspect(path, tensors=tensors), as_json=as_json)


@main.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(model: Path | None, as_json: bool) -> None:
    """Describe this machine and its execution providers, and what each would do with the ONNX folder MODEL."""
    from mimo_mobile import doctor as doctors
    from mimo_mobile import terminal

    terminal.doctor(doctors.machine(), doctors.states(model), as_json=as_json)


main.add_command(cache)
main.add_command(evaluate)
main.add_command(npu_plan)
main.add_command(plan)
main.add_command(quantize)
main.add_command(recipes)
main.add_command(serve)

if __name__ == "__main__":
    from mimo_mobile.__main__ import main as start

    start()
