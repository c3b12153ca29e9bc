"""Write who trains and who judges the networks: ``python -m benchmark.make_splits --data DIR``.

One list for each data set, by patient, case or subject: ``train``, ``validation`` (which chooses the best epoch) and
``test`` (which is reported). Test subjects are ones that the optimizers' pair lists also keep for testing, so that no
default of theirs was chosen on them. The lists are committed; run this only to make new ones.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from benchmark.data import FILES, PAIRS, load_arrays

SPLITS = Path(__file__).parent / "splits"
SEED = 20262
SIZES = {"cardiac": ("patient", 4, 8), "hippocampus": ("case", 8, 40), "brain": ("subject", 2, 8)}


def groups_of(name: str) -> dict[str, str]:
    """The split of each subject of a data set."""
    with (SPLITS / f"{name}.csv").open(newline="") as file:
        return {row["group"]: row["split"] for row in csv.DictReader(file)}


def testable(name: str) -> list[str]:
    """Subjects on whom no default of the optimizers was chosen."""
    with (PAIRS / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    tuned = {row[key] for row in rows if row["split"] == "tuning" for key in ("fixed_subject", "moving_subject")}
    return sorted({row["fixed_subject"] for row in rows if row["split"] == "test"} - tuned)


def main() -> None:
    """Write every list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    folder = parser.parse_args().data
    SPLITS.mkdir(exist_ok=True)
    for name, (key, validation, test) in SIZES.items():
        random = np.random.default_rng(SEED)
        everyone = sorted({str(g) for g in load_arrays(folder / FILES[name])[key]})
        judges = random.permutation(testable(name))[:test].tolist()
        # The six whole heads are subjects of the brains too: they are trained on in both or in neither.
        rest = random.permutation([g for g in everyone if g not in judges]).tolist()
        kinds = dict.fromkeys(judges, "test") | dict.fromkeys(rest[:validation], "validation")
        with (SPLITS / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("group", "split"))
            writer.writerows((g, kinds.get(g, "train")) for g in everyone)
    heads = sorted({p.name.split("-")[0] for p in (folder / "head_t1_nifti").glob("*_T1.nii.gz")})
    order = np.random.default_rng(SEED).permutation(heads).tolist()
    with (SPLITS / "heads.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("group", "split"))
        writer.writerows((g, "test" if g in order[:2] else "train") for g in heads)


if __name__ == "__main__":
    main()
