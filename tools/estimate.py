"""``trainwright estimate``: memory, communication and time of training on many processes, as tables or JSON."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError
from trainwright.engine.estimate.advice import PATIENCE, Remedy, remedies
from trainwright.engine.estimate.batch import made_batches, read_batch
from trainwright.engine.estimate.mistakes import StepError
from trainwright.engine.estimate.speed import Hardware, report
from trainwright.engine.estimate.trace import KINDS, Trace, require_training, trace
from trainwright.engine.parts import setting

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([kMGT]i?|)B?(?:/s)?\s*", re.ASCII)
_NOT_COUNTED = (
    "memory: fragmentation and rounding of the allocator, the CUDA context, workspaces of cuDNN and cuBLAS, buffers of "
    "NCCL, and what validation needs",
    "operations: only products, convolutions and attention; time: latency, kernels bound by memory, and loading data",
    "what `compile` changes, and differences between the operators of a CPU and those of an accelerator",
)


def hardware(
    tflops: float, intra_link: str, inter_link: str, gpus_per_node: int, device_memory: str | None
) -> Hardware:
    """Return what the options of the command say about the hardware.

    Raises:
        ConfigError: a value is invalid.
    """
    for name, number in (("--tflops", tflops), ("--gpus-per-node", gpus_per_node)):
        if number <= 0:
            raise ConfigError(name, f"must be positive, not {number:g}")
    memory = None if device_memory is None else _bytes("--device-memory", device_memory)
    links = _bytes("--intra-link", intra_link), _bytes("--inter-link", inter_link)
    return Hardware(tflops * 1e12, *links, gpus_per_node, memory)


def world_sizes(numbers: Sequence[int]) -> list[int]:
    """Return the numbers of processes, once each, in ascending order.

    Raises:
        ConfigError: a number is not positive.
    """
    if min(numbers) < 1:
        raise ConfigError("--world-size", f"must be at least 1, not {min(numbers)}")
    return sorted(set(numbers))


def shape(text: str | None) -> tuple[tuple[int, ...], torch.dtype] | None:
    """Return the shape and dtype in a text such as ``3,224,224`` or ``1024:int64``; float32 by default.

    Raises:
        ConfigError: the text is not a shape.
    """
    if text is None:
        return None
    sizes, _, name = text.partition(":")
    dtype = getattr(torch, name or "float32", None)
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", sizes) or not isinstance(dtype, torch.dtype):
        raise ConfigError("--input-shape", f"{text!r} is not a shape such as 3,224,224 or 1024:int64")
    return tuple(map(int, sizes.split(","))), dtype


def _bytes(option: str, text: str) -> float:
    """Return a size or speed such as ``80GB``, ``80GiB`` or ``50GB/s`` in bytes."""
    found = _SIZE.fullmatch(text)
    if found is None or float(found[1]) <= 0:
        raise ConfigError(option, f"{text!r} is not a size such as 80GB, 80GiB or 50GB/s")
    return float(found[1]) * _UNITS[found[2]]


def with_strategy(cfg: Config, name: str | None) -> None:
    """Set the strategy of a config by name; if it is the configured one, its arguments stay."""
    given = setting(cfg, "strategy")
    if name is not None and not (isinstance(given, Mapping) and given.get("type") == name):
        cfg.strategy = name


def estimate(cfg: Config, world_sizes: Sequence[int], hardware: Hardware, shape: Any, as_json: bool) -> int:
    """Print an estimate for each number of processes.

    Args:
        cfg: a config without mistakes.
        world_sizes: numbers of processes.
        hardware: memory and speeds.
        shape: shape and dtype of the input of a sample; None to read a batch of the data.
        as_json: print JSON.

    Returns:
        1 if one of them does not fit into the memory of the device, else 0.
    """
    require_training(cfg)
    traces: list[Trace] = []
    batch = read_batch(cfg) if shape is None else None
    for world_size in world_sizes:
        if batch is None:
            batch, found = _with_made_batch(cfg, world_size, *shape)
        else:
            found = trace(cfg, world_size, batch)
        traces.append(found)
    reports = [report(found, hardware) for found in traces]
    tried: dict[int, list[Remedy]] = {
        found.world_size: list(remedies(cfg, found, batch, hardware))
        for found in traces
        if hardware.fits(found) is False
    }
    if as_json:
        for each in reports:
            each["remedies"] = [vars(remedy) for remedy in tried.get(each["world_size"], ())]
        print(json.dumps({"hardware": vars(hardware), "estimates": reports, "not_counted": _NOT_COUNTED}, indent=2))
    else:
        _print(reports, tried, hardware)
    return 1 if tried else 0


def _with_made_batch(cfg: Config, world_size: int, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Any, Trace]:
    """Return the first made-up batch that suits the model, and its trace."""
    failures: dict[str, list[str]] = {}
    for annotations, batch in made_batches(cfg, shape, dtype):
        try:
            return batch, trace(cfg, world_size, batch)
        except StepError as error:  # annotations of another task
            failures.setdefault(error.message, []).append(annotations)
    hint = "give the shape of one sample, or estimate with data"
    lines = (f"\n    with {' or '.join(annotations)}: {message}" for message, annotations in failures.items())
    raise ConfigError("--input-shape", "no made-up batch suits the model" + "".join(lines), hint)


def _print(reports: Sequence[dict[str, Any]], tried: Mapping[int, Sequence[Remedy]], hardware: Hardware) -> None:
    from rich.console import Console

    console = Console()
    for each in reports:
        _print_one(console, each, hardware)
        if remedies_of_size := tried.get(each["world_size"]):
            console.print(f"Tried instead, starting none after {PATIENCE:.0f} seconds:", highlight=False)
        for remedy in remedies_of_size or ():
            verdict = "fits" if remedy.fits else "does not fit"
            console.print(f"  {remedy.change}: {_size(remedy.peak)} per rank, {verdict}", markup=False, highlight=False)
    if len(reports) > 1:
        _print_scaling(console, reports)
    console.print(
        f"Assumed: {hardware.flops / 1e12:g} TFLOP/s, {_size(hardware.intra_link)}/s within a machine of "
        f"{hardware.gpus_per_node} and {_size(hardware.inter_link)}/s between machines, sent by each accelerator",
        highlight=False,
    )
    for line in _NOT_COUNTED:
        console.print(f"Not counted: {line}", markup=False, highlight=False)


def _print_one(console: Any, each: Mapping[str, Any], hardware: Hardware) -> None:
    from rich.table import Table

    memory = each["memory"]
    title = f"{each['world_size']} processes, {each['strategy']}" if each["world_size"] > 1 else "1 process"
    table = Table("memory of a rank", title=title)
    table.add_column("largest", justify="right")
    table.add_column("at the peak", justify="right")
    for kind in KINDS:
        if memory["largest"][kind]:
            table.add_row(kind, _size(memory["largest"][kind]), _size(memory["at_peak"][kind]))
    table.add_section()
    table.add_row("all", "", _size(memory["peak"]))
    if memory["host"]:
        table.add_row("in host memory", _size(memory["host"]), "")
    console.print(table)
    if memory["fits"] is not None:
        verdict = "fits into" if memory["fits"] else "DOES NOT FIT into"
        console.print(f"{_size(memory['peak'])} {verdict} {_size(hardware.device_memory or 0)}", highlight=False)
    if each["communication"]:
        table = Table("communication per update", "link")
        for column in ("messages", "sent by a rank"):
            table.add_column(column, justify="right")
        for row in each["communication"]:
            table.add_row(
                row["collective"], row["link"], _size(row["bytes"]), _size(row["sent"])
            )  # fmt: skip
        console.print(table)
    seconds = each["seconds"]
    iterations = each["iterations_per_update"]
    console.print(
        f"update: {each['batch']} samples"
        + (f" in {iterations} iterations" if iterations > 1 else "")
        + f", {each['flops'] / 1e12:.4g} TFLOP per rank, {_time(seconds['overlapped'])} if all communication overlaps "
        f"with computation, {_time(seconds['sequential'])} if none does",
        highlight=False,
    )
    for line in each["assumptions"]:
        console.print(f"Assumed, since an estimate has no values: {line}", highlight=False)


def _print_scaling(console: Any, reports: Sequence[Mapping[str, Any]]) -> None:
    from rich.table import Table

    table = Table(title="scaling")
    for column in ("processes", "memory of a rank", "sent per update", "time", "samples/s", "efficiency"):
        table.add_column(column, justify="right")
    for each in reports:
        seconds, rates, shares = each["seconds"], each["samples_per_second"], each["efficiency"]
        table.add_row(
            str(each["world_size"]), _size(each["memory"]["peak"]), _size(sum(each["sent"].values())),
            f"{_time(seconds['overlapped'])} to {_time(seconds['sequential'])}",
            f"{rates['overlapped']:,.0f} to {rates['sequential']:,.0f}" if rates["sequential"] else "",
            f"{shares['overlapped']:.0%} to {shares['sequential']:.0%}" if shares["sequential"] else "",
        )  # fmt: skip
    console.print(table)


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def _time(seconds: float) -> str:
    return (
        f"{seconds:.3g} s"
        if seconds >= 1
        else f"{seconds * 1e3:.3g} ms"
        if seconds >= 1e-3
        else f"{seconds * 1e6:.3g} µs"
    )
