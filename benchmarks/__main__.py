"""make bench: every measurement of the README, the documents and `benchmarks/results`, one after the other.

    python -m benchmarks [NAME ...] [--list] [--mostlyai PYTHON] [--ddpm PYTHON]

NAME takes the commands of some benchmarks only; `--list` prints them and runs nothing. Real data are looked for at
../shared/data. Peers with an environment of their own (see `peers.py`, `signals.py`) are left out without it. All of it
takes days on one core: `python -m benchmarks fidelity` is a good beginning.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECORDS = "columnar-ar temporal-vae timegan record-diffusion"
PEERS = f"{RECORDS} mostlyai-engine --mostlyai {{mostlyai}}"
ECG5000 = "--only ecg5000 --records 400 --steps 1500 --batch 32 --seeds"
COMMANDS = f"""
fidelity --cohorts pbc heart_failure mimic_iv_demo nafld cgd pbc_baseline diabetes_encounters icu_48h \
--generators columnar-ar --seeds 1 --fast
fidelity --cohorts pbc --generators columnar-ar --seeds 2 3 --fast --more
fidelity --cohorts pbc mimic_iv_demo icu_48h diabetes_encounters --generators bootstrap independent --seeds 1 --fast \
--patients icu_48h=1500 diabetes_encounters=20000 --out benchmarks/results/anchors.json
choosing --cohorts icu_48h heart_failure mimic_iv_demo --seeds 1 --draws 2
peers --fast --cohorts pbc --seconds 25 --seeds 1 2 3 --generators bootstrap independent event-transformer {PEERS}
peers --fast --more --cohorts pbc --seconds 25 --seeds 1 --generators sdv-par
peers --fast --more --cohorts pbc --seconds 1 --seeds 1 2 3 --generators columnar-ar:members=1
peers --fast --more --cohorts pbc --seconds 25 --seeds 1 2 3 --generators timegan:candidates=1 temporal-vae:candidates=1
peers --fast --more --cohorts pbc --seconds 120 --seeds 1 2 3 --generators event-transformer {PEERS}
peers --fast --more --cohorts heart_failure --patients 1000 --seconds 120 --seeds 1 --generators {PEERS}
peers --fast --more --cohorts icu_48h --patients 2000 --seconds 120 --seeds 1 --generators {PEERS}
peers --fast --more --cohorts heart_failure --patients 1000 --seconds 120 --seeds 2 \
--generators columnar-ar temporal-vae timegan
peers --fast --more --cohorts icu_48h --patients 2000 --seconds 120 --seeds 2 --generators columnar-ar
peers --fast --more --cohorts diabetes_encounters --patients 20000 --seconds 120 --seeds 1 --generators {PEERS}
peers --fast --more --cohorts diabetes_encounters --patients 20000 --seconds 120 --seeds 2 \
--generators columnar-ar temporal-vae mostlyai-engine --mostlyai {{mostlyai}}
peers --fast --more --cohorts icu_48h --patients 2000 --seconds 600 --seeds 1 --generators columnar-ar
ablations --generators timegan --steps 200 --seeds 1 2
ablations --generators temporal-vae record-diffusion --seeds 1 2 --more
ts_legacy --repeats 1 --steps 300 --generators timegan columnar-ar
ts_legacy --sets etth fmri --windows 1500 --minutes 2 --repeats 1 --steps 300 --generators timegan columnar-ar --more
ts_legacy --sets etth --windows 400 --minutes 0.4 --repeats 1 --seeds 1 \
--generators temporal-vae temporal-vae:spectral=1 --more
signals {ECG5000} 0 1 2 --families bootstrap gaussian signal-diffusion
signals {ECG5000} 0 --no-floor \
--families barycentre "columnar-ar, in steps" "timegan, in steps" "temporal-vae, in steps"
signals --only ecg5000 --records 400 --seeds 0 --no-floor --families ddpm --ddpm {{ddpm}} --seconds 60
signals --only mitdb-beats --records 400 --steps 1500 --batch 32 \
--families bootstrap gaussian barycentre neurokit2 signal-diffusion
signals --only mitdb --records 160 --steps 600 --families gaussian simulator neurokit2 signal-diffusion
signals --only 12-lead --records 60 --steps 600 --families bootstrap gaussian simulator
signals --only 12-lead --records 60 --steps 600 --seeds 0 1 2 --families neurokit2 signal-diffusion
signals --only af2017 --records 200 --steps 600 --families gaussian simulator neurokit2
signals --only af2017 --records 200 --steps 600 --seeds 0 1 2 --families bootstrap signal-diffusion
signals --only bonn-eeg --records 250 --steps 800 --families bootstrap gaussian signal-diffusion
signals --only eeg-64 --records 200 --steps 300 --families signal-diffusion
signals --only eeg-64 --records 200 --steps 800 --families "signal-diffusion, latent 2" "coded, latent 2"
signals --only simulated-12-lead-500hz --records 200 --steps 300 --families signal-diffusion
signals --only simulated-12-lead-500hz --records 200 --steps 450 \
--families "signal-diffusion, latent 4" "coded, latent 4"
signals --only ppg pressure breathing --records 120 --steps 600 --seeds 0 1 \
--families "without rhythm and code" signal-diffusion
signal_step
added_records
false_alarms --cohorts ward=40 pbc=20 registry=40 --seeds 5000
fault_matrix --patients 600
sdmetrics_blind --patients 400
sdmetrics_blind --cohorts pbc mimic_iv_demo diabetes_encounters=3000 icu_48h=600 --seeds 1 --generators columnar-ar \
--minutes 1 --out benchmarks/results/sdmetrics_real.json
evaluate_speed --sizes 2500 5000 10000
speed
memory --sizes 1000 10000 100000
simulate
""".strip().splitlines()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted({command.split()[0] for command in COMMANDS})
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    options.add_argument("--list", action="store_true", help="print the commands and run nothing")
    options.add_argument("--mostlyai", default="", help="Python of an environment with mostlyai-engine")
    options.add_argument("--ddpm", default="", help="Python of an environment with denoising-diffusion-pytorch")
    given = options.parse_args()
    if unknown := set(given.names) - set(names):
        options.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    failed = []
    for command in COMMANDS:
        words = shlex.split(command)
        if given.names and words[0] not in given.names:
            continue
        if "{ddpm}" in words and not given.ddpm:
            continue
        if "{mostlyai}" in words and not given.mostlyai:
            words = [w for w in words if w not in ("mostlyai-engine", "--mostlyai", "{mostlyai}")]
        words = [w.format(mostlyai=given.mostlyai, ddpm=given.ddpm) for w in words]
        line = ["-m", f"benchmarks.{words[0]}", *words[1:]]
        print("python", shlex.join(line), flush=True)
        if not given.list and subprocess.run([sys.executable, *line], cwd=HERE.parent).returncode:
            failed.append(words[0])
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
