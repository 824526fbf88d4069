"""How fast patients are simulated, on one core: python -m benchmarks.simulate [-n 20000].

The schema is heart_failure_clinic with planned visits twice as often, so that a patient has about 20 visits; rules are
checked and repaired as always.
"""

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.common import apart, parser, save, show

os.environ.setdefault("POLARS_MAX_THREADS", "1")


def measure(n_subjects: int) -> dict[str, Any]:
    """CPU and wall seconds to simulate `n_subjects`, and what they hold."""
    from cohortloom.schema.text import read_schema
    from cohortloom.simulation import simulate

    schema = read_schema(Path(__file__).parents[1] / "schemas/heart_failure_clinic.toml")
    assert schema.simulation is not None
    planned = schema.simulation.visits["planned"].model_copy(update={"every": 65.0})
    visits = {**schema.simulation.visits, "planned": planned}
    schema = schema.model_copy(update={"simulation": schema.simulation.model_copy(update={"visits": visits})})
    simulate(schema, 10, seed=0)  # imports
    wall, cpu = time.perf_counter(), time.process_time()
    cohort = simulate(schema, n_subjects, seed=1)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    n_visits = cohort.tables["visits"].height
    return {
        "n_subjects": n_subjects,
        "visits_per_subject": round(n_visits / max(n_subjects, 1), 1),
        "rows": sum(frame.height for frame in cohort.tables.values()),
        "wall_seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "patients_per_cpu_minute": round(60 * n_subjects / cpu),
        "visits_per_cpu_second": round(n_visits / cpu),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("-n", type=int, default=20_000, help="patients")
    given = options.parse_args()
    row = apart(measure, given.n)
    show([row])
    save("simulate", [row], out=given.out)


if __name__ == "__main__":
    main()
