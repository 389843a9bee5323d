"""The summary table of the fault-injection suite, and the uninterrupted reference runs."""

import contextlib
import io
import sys
from collections.abc import Sequence

import pytest
from fault_runs import Reference, Row, Tally, differences, train, write_config

from trainwright.tools.cli import main

if sys.platform != "linux":  # they fork, and read /proc
    collect_ignore_glob = ["test_*.py"]

ROWS = pytest.StashKey[dict[str, Row]]()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Count faults for the summary table."""
    return Tally(request.config.stash.setdefault(ROWS, {}))


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Reference]:
    """Return the uninterrupted runs: epoch-based under True, iteration-based under False."""
    folder = tmp_path_factory.mktemp("references")
    # In this process, so that forked processes have everything imported.
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["train", str(write_config(folder / "warm_up")), "--work-dir", str(folder / "warm")]) == 0
    found = {}
    for by_epoch in (True, False):
        name = "epochs" if by_epoch else "iterations"
        config = write_config(folder / "configs" / name, by_epoch=by_epoch)
        runs = [folder / name, folder / f"{name}_again"]
        processes = []
        for work_dir in runs:
            processes.append(train(config, work_dir))
            assert processes[-1].wait() == 0, processes[-1].printed
        assert differences(*runs) == []
        found[by_epoch] = Reference(config, runs[0], min(process.seconds for process in processes))
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the summary table."""
    rows = config.stash.get(ROWS, {})
    if not rows:
        return
    terminalreporter.section("faults")
    total = Row()
    for row in rows.values():
        total.faults += row.faults
        total.resumed += row.resumed
        total.compared += row.compared
        total.identical += row.identical
        total.lost += row.lost
    table = [["kind of fault", "injected", "resumed", "bit-identical", "lost iterations", "largest"]]
    for kind, row in [*rows.items(), ("all", total)]:
        counts = [
            row.faults,
            row.resumed,
            f"{row.identical} of {row.compared}",
            sum(row.lost),
            max(row.lost, default=0),
        ]
        table.append([kind, *map(str, counts)])
    for line in _aligned(table):
        terminalreporter.write_line(line)


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
        for line in table
    ]
