"""Damage files of every format in seeded ways and read them: python -m benchmark.fuzz.

Every sample is made here, then bytes are flipped, runs are zeroed, copied or removed, numbers are set to their
extremes, and files are cut. A file must be read, or refused by an error of this package. Counted as failures: other
exceptions, readings of more than 10 seconds of processor time, and more than 1 GB of memory beyond what the intact
files take. The reader runs in a child process, which is replaced if it dies.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import napari_stnreg as sr
from benchmark.memory import peak_mb
from benchmark.threads import limit_threads

SECONDS = 10.0
MEMORY = 1_000_000_000
HEADER = 600
"""Bytes at the beginning in which half of the mutations fall; there are the sizes and types."""


def make_samples(folder: Path) -> list[Path]:
    """One or more files of every format that this package reads."""
    import nibabel as nib
    import tifffile

    from napari_stnreg.io.formats import IMAGE_FORMATS, TRANSFORM_FORMATS
    from napari_stnreg.transforms import AffineTransform, BSplineTransform, chain

    rng = np.random.default_rng(0)
    flat = sr.Image.from_array(rng.integers(0, 200, (24, 28)).astype(np.uint8))
    color = sr.Image.from_array(rng.integers(0, 200, (40, 44, 3)).astype(np.uint8), channels=True)
    volume = sr.Image.from_array(rng.normal(size=(10, 12, 11)).astype(np.float32), (2.0, 1.0, 1.5), unit="mm")
    endings = [s for one in IMAGE_FORMATS for s in one.written_suffixes if not one.is_folder]
    for ending in dict.fromkeys(endings):
        for name, image in (("flat", flat), ("color", color), ("volume", volume)):
            try:
                sr.write_image(folder / f"i_{name}{ending}", image)
            except sr.InputError:
                continue
    for kind in ("zlib", "lzw", "zstd", "jpeg", None):
        tifffile.imwrite(folder / f"i_{kind}.tif", flat.data, compression=kind)
    pages = rng.integers(0, 200, (5, 24, 28)).astype(np.uint16)
    tifffile.imwrite(folder / "i_pages.tif", pages, photometric="minisblack")
    tifffile.imwrite(folder / "i_big.tif", flat.data, bigtiff=True, tile=(16, 16), compression="zlib")
    data = np.asarray(volume.data)
    for ending in (".mgz", ".mgh"):
        nib.save(nib.MGHImage(data, np.eye(4)), folder / f"i_volume{ending}")
    nib.save(nib.Nifti2Image(data, np.eye(4)), folder / "i_two.nii")
    nib.save(nib.AnalyzeImage(data, np.eye(4)), folder / "i_analyze.hdr")
    nib.save(nib.Nifti1Pair(data, np.eye(4)), folder / "i_pair.hdr")
    head = b"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 6 4\nencoding: raw\n\n"
    (folder / "i_text.nhdr").write_bytes(head + bytes(24))
    _make_dicom(folder)
    matrix = np.eye(4)
    matrix[:3, 3] = 1, 2, 3
    affine = AffineTransform(matrix, "mm")
    import torch

    lattice = sr.Grid.from_spacing((7, 7, 7), 5.0, -10.0, unit="mm")
    bend = BSplineTransform(torch.from_numpy(rng.normal(size=(3, 7, 7, 7))), lattice)
    endings = [s for one in TRANSFORM_FORMATS for s in one.written_suffixes if not one.is_folder]
    for ending in dict.fromkeys(endings):
        for name, transform in (("affine", affine), ("chain", chain(affine, bend))):
            try:
                sr.save(transform, folder / f"t_{name}{ending}", grid=volume.grid)
            except sr.InputError:
                continue
    sr.save(bend, folder / "TransformParameters.t_0.txt", grid=volume.grid)
    (folder / "t_a.xfm").write_text(
        "MNI Transform File\n\nTransform_Type = Linear;\nLinear_Transform =\n 1 0 0 2\n 0 1 0 3\n 0 0 1 4;\n"
    )
    (folder / "p_table.csv").write_text("z,y,x,name\n1,2,3,a\n4,5,6,b\n")
    (folder / "p_ants.csv").write_text("x,y,z,t,label\n1,2,3,0,1\n4,5,6,0,2\n")
    (folder / "p_a.fcsv").write_text(
        "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n1,1,2,3,0,0,0,1,1,1,0,F-1,,\n"
    )
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": [{"position": [1, 2, 3], "label": "a"}]}
    (folder / "p_a.mrk.json").write_text(json.dumps({"markups": [markup]}))
    return sorted(one for one in folder.iterdir() if one.suffix != ".img")


def _make_dicom(folder: Path) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.arange(24 * 28, dtype=np.uint16).reshape(24, 28))
    sitk.WriteImage(image, str(folder / "i_slice.dcm"))


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One damaged copy of a file."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        if not data:
            break
        reach = min(len(data), HEADER) if rng.random() < 0.5 else len(data)
        at = rng.randrange(reach)
        kind = rng.randrange(8)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:  # a number at its extreme
            size = rng.choice((1, 2, 4, 8))
            data[at : at + size] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * min(size, len(data) - at)
        elif kind == 3:
            length = min(rng.choice((4, 16, 64)), len(data) - at)
            data[at : at + length] = bytes(length)
        elif kind == 4:
            del data[at : at + rng.choice((1, 4, 32))]
        elif kind == 5:
            data[at:at] = data[at : at + rng.choice((1, 8, 64))]
        elif kind == 6:
            other = rng.randrange(len(data))
            length = min(16, len(data) - max(at, other))
            data[at : at + length] = data[other : other + length]
        else:
            del data[max(at, 1) :]
    return bytes(data)


def _read(path: Path) -> None:
    from napari_stnreg.io.points import read_points

    if path.name.startswith("i_"):
        content = sr.read_series(path)
        assert content
    elif path.name.startswith("p_"):
        read_points(path, 3)
    else:
        sr.load(path)


def _child(connection: Connection) -> None:
    limit_threads(1)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries write what they find to the error stream
    while True:
        path = connection.recv()
        if path is None:
            return
        try:
            _read(path)
            answer = "read", ""
        except sr.RegistrationError:
            answer = "refused", ""
        except BaseException:  # what is looked for
            answer = "failed", traceback.format_exc(limit=-3)
        connection.send((*answer, round(peak_mb() * 2**20)))


class Reader:
    """A child process that reads one file after the other."""

    def __init__(self) -> None:
        self.connection, other = multiprocessing.get_context("spawn").Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=_child, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def read(self, path: Path, seconds: float = SECONDS) -> tuple[str, str, int]:
        """Read a file, and say how it went; ``seconds`` limits the processor time."""
        self.connection.send(path)
        try:
            process = psutil.Process(self.process.pid)
            begin = sum(process.cpu_times()[:4])
            while not self.connection.poll(0.5):
                if sum(process.cpu_times()[:4]) - begin > seconds:
                    return "hang", f"more than {seconds:g} s", 0
            answer: tuple[str, str, int] = self.connection.recv()
        except (EOFError, psutil.Error):
            self.process.join()
            return "died", f"exit code {self.process.exitcode}", 0
        return answer

    def close(self) -> None:
        """End the child process."""
        self.process.kill()
        self.process.join()


def warm_up(reader: Reader, samples: list[Path]) -> tuple[int, list[str]]:
    """Read the intact samples, so that libraries are loaded: the memory then, and what was not read."""
    base, unread = 0, []
    for one in samples:
        outcome, _, base = reader.read(one, 120.0)
        if outcome != "read":
            unread.append(one.name)
    return base, unread


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="mutations in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    parser.add_argument("--only", default="", help="part of the name of the samples")
    options = parser.parse_args()
    table: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: Counter[str] = Counter()
    done, largest, slowest, start = 0, 0, 0.0, time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        samples = [one for one in make_samples(Path(name)) if options.only in one.name]
        reader = Reader()
        base, intact = warm_up(reader, samples)
        print(f"{len(samples)} samples; not read as they are: {', '.join(intact) or 'none'}", flush=True)
        for number in range(options.count):
            if time.perf_counter() - start > options.seconds:
                break
            sample = samples[number % len(samples)]
            rng = random.Random(f"{options.seed} {number}")
            mutant = sample.with_name(sample.name.replace(sample.suffixes[0], f"_mutant{sample.suffixes[0]}", 1))
            if (pair := sample.with_suffix(".img")).exists():
                mutant.with_suffix(".img").write_bytes(pair.read_bytes())
            mutant.write_bytes(mutated(sample.read_bytes(), rng))
            before = time.perf_counter()
            outcome, reason, memory = reader.read(mutant)
            memory = max(memory - base, 0)
            slowest, largest = max(slowest, time.perf_counter() - before), max(largest, memory)
            if memory > MEMORY:
                outcome, reason = "memory", f"{memory / 1e9:.1f} GB"
            table["".join(sample.suffixes[-2:])][outcome] += 1
            done += 1
            if outcome not in ("read", "refused"):
                reasons[f"{sample.name}: {reason.strip().splitlines()[-1] if reason else outcome}"] += 1
                print(f"{number} {sample.name} {outcome}\n{reason}", flush=True)
                if options.keep is not None:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / f"{number}_{sample.name}").write_bytes(mutant.read_bytes())
            if outcome in ("hang", "died", "memory"):
                reader.close()
                reader = Reader()
                base, _ = warm_up(reader, samples)
            mutant.unlink(missing_ok=True)
        reader.close()
    report(table, reasons, done)
    seconds = time.perf_counter() - start
    print(f"{done} mutations in {seconds:.0f} s; slowest {slowest:.1f} s, at most {largest / 1e6:.0f} MB more memory")
    return 1 if reasons else 0


def report(table: dict[str, Counter[str]], reasons: Counter[Any], done: int) -> None:
    """Print the outcomes by format."""
    columns = ("read", "refused", "failed", "hang", "died", "memory")
    print("| format | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for name in sorted(table):
        print(f"| {name} | " + " | ".join(str(table[name][column]) for column in columns) + " |")
    total = Counter[str]()
    for one in table.values():
        total.update(one)
    print("| all | " + " | ".join(str(total[column]) for column in columns) + " |")
    for reason, count in reasons.most_common(40):
        print(f"{count} x {reason}")


if __name__ == "__main__":
    raise SystemExit(main())
