"""What benchmarks share: where results go, what machine made them, CPU seconds and peak memory of one piece of work.

A piece of work runs in a process of its own (spawned), so that its peak memory is its own and one torch thread is used.
Seconds depend on the machine; read ratios. `unit` is the time of a fixed matrix product on the same machine in the same
run, so that two machines can be compared.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["DATA", "RESULTS", "apart", "commit", "kept", "machine", "parser", "renewed", "save", "show"]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DATA = ROOT.parent / "shared" / "data"

for _name, _value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}.items():
    os.environ.setdefault(_name, _value)


def parser(text: str | None) -> argparse.ArgumentParser:
    """Options every benchmark has."""
    options = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=DATA, help="folder with the real data sets")
    options.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds")
    options.add_argument("--out", type=Path, default=None, help="result file (default: benchmarks/results/NAME.json)")
    return options


def machine() -> dict[str, Any]:
    """Processor, cores, memory, versions, and the time of a fixed matrix product [s]."""
    import torch

    import cohortloom

    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    a = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    b = torch.from_numpy(a)
    torch.mm(b, b)
    best = min(_timed(lambda: torch.mm(b, b)) for _ in range(5))
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cohortloom": cohortloom.__version__,
        "matmul_1024_f32_s": round(best, 5),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def apart(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run `work(*arguments)` in a fresh process; adds cpu_s, wall_s and peak_mb of that process (imports included in
    peak_mb, not in the times)."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (work, arguments))


def _measured(work: Callable[..., dict[str, Any]], arguments: tuple) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    wall, cpu = time.perf_counter(), time.process_time()
    found = work(*arguments)
    found.setdefault("cpu_s", round(time.process_time() - cpu, 2))
    found.setdefault("wall_s", round(time.perf_counter() - wall, 2))
    found["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return found


def commit() -> str:
    """The commit that is measured."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def save(name: str, rows: list[dict[str, Any]], *, out: Path | None, **facts: Any) -> None:
    """Write rows with machine, date, command and commit."""
    module = f"benchmarks.{name}"
    content = {
        "command": " ".join(["python -m", module, *sys.argv[1:]]),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        **facts,
        "rows": rows,
    }
    path = out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_known(content), indent=1, allow_nan=False) + "\n")
    print(f"written: {path}")


def kept(path: Path, more: bool) -> list[dict[str, Any]]:
    """Rows of a result file that a run adds to; none where it starts anew."""
    return json.loads(path.read_text())["rows"] if more and path.exists() else []


def renewed(rows: list[dict[str, Any]], row: dict[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows without the earlier one of the same measurement, which `names` tell, and the new one at the end.

    One that ended in an error ("failed" in words) replaces nothing.
    """
    others = [old for old in rows if any(old.get(name) != row.get(name) for name in names)]
    return rows if isinstance(row.get("failed"), str) and len(others) < len(rows) else [*others, row]


def _known(content: Any) -> Any:
    """The same with None for what is no number: JSON knows no NaN."""
    if isinstance(content, dict):
        return {k: _known(v) for k, v in content.items()}
    if isinstance(content, (list, tuple)):
        return [_known(v) for v in content]
    return None if isinstance(content, float) and not np.isfinite(content) else content


def show(rows: list[dict[str, Any]]) -> None:
    """Rows as a table on stdout."""
    if not rows:
        return
    names = list(dict.fromkeys(name for row in rows for name in row if not isinstance(row[name], (dict, list))))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    width = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]
    print("  ".join(name.ljust(w) for name, w in zip(names, width)))
    for line in cells:
        print("  ".join(cell.ljust(w) for cell, w in zip(line, width)))


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
