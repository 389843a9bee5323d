"""The time of a step and its scaling, from the traced operations and communication and given speeds."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trainwright.engine.estimate.meter import Collective
from trainwright.engine.estimate.trace import Trace


@dataclass(frozen=True)
class Hardware:
    """What is known about the machines.

    Args:
        flops: sustained floating-point operations per second of an accelerator.
        intra_link: bytes per second that an accelerator sends to others of its machine.
        inter_link: bytes per second that an accelerator sends to other machines.
        gpus_per_node: accelerators of a machine. Consecutive ranks are on the same one.
        device_memory: memory of an accelerator in bytes; None if unknown.
    """

    flops: float
    intra_link: float
    inter_link: float
    gpus_per_node: int
    device_memory: float | None = None

    def link_of(self, collective: Collective) -> str:
        """Return the slowest link of a ring of the participants: ``intra-node`` or ``inter-node``."""
        nodes = {rank // self.gpus_per_node for rank in collective.ranks}
        return "intra-node" if len(nodes) == 1 else "inter-node"

    def fits(self, trace: Trace) -> bool | None:
        """Return whether a rank has enough memory; None if that of the device is unknown."""
        return None if self.device_memory is None else trace.peak <= self.device_memory


def traffic(trace: Trace, hardware: Hardware) -> Iterator[dict[str, Any]]:
    """Yield the communication of a rank per update, for each kind of collective and link."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for collective in trace.collectives:
        if len(collective.ranks) > 1:
            key = collective.kind, hardware.link_of(collective)
            row = rows.setdefault(key, {"collective": key[0], "link": key[1], "bytes": 0, "sent": 0})
            row["bytes"] += collective.nbytes
            row["sent"] += collective.sent
    yield from (rows[key] for key in sorted(rows))


def report(trace: Trace, hardware: Hardware) -> dict[str, Any]:
    """Return the estimate for a rank and an update as plain data; sizes in bytes, times in seconds.

    ``seconds`` has the time of an update if all communication overlaps with computation (``overlapped``) and if none
    does (``sequential``); ``efficiency`` has the shares of these times in which operations are computed.
    """
    rows = list(traffic(trace, hardware))
    sent = {link: sum(row["sent"] for row in rows if row["link"] == link) for link in ("intra-node", "inter-node")}
    compute = trace.flops / hardware.flops
    communication = sent["intra-node"] / hardware.intra_link + sent["inter-node"] / hardware.inter_link
    seconds = {
        "compute": compute, "communication": communication,
        "overlapped": max(compute, communication), "sequential": compute + communication,
    }  # fmt: skip
    batch = trace.samples * trace.data_size
    ends = ("overlapped", "sequential")
    return {
        "world_size": trace.world_size,
        "data_size": trace.data_size,
        "strategy": trace.strategy,
        "trainable_parameters": trace.trainable,
        "batch": batch,
        "iterations_per_update": trace.accumulation,
        "memory": {
            "peak": trace.peak, "host": trace.host, "largest": trace.largest, "at_peak": trace.at_peak,
            "fits": hardware.fits(trace),
        },
        "communication": rows,
        "sent": sent,
        "flops": trace.flops,
        "seconds": seconds,
        "samples_per_second": {end: batch / seconds[end] if seconds[end] else None for end in ends},
        "efficiency": {end: compute / seconds[end] if seconds[end] else None for end in ends},
        "assumptions": list(trace.assumptions),
    }  # fmt: skip
