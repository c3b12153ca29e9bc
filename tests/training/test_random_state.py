"""The global random state of torch, NumPy and Python is unchanged by every call that draws random numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

import napari_stnreg as sr
from napari_stnreg.core.grid import Grid
from napari_stnreg.teaching.classifier import train_classifiers
from napari_stnreg.teaching.digits import DigitData
from napari_stnreg.training.synthetic.shapes import GeneratedShapes
from tests.helpers.drawn_pairs import DrawnPairs


def random_states():
    """The states of the three global generators, comparable by ``==``."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the state that must not change
    return torch.get_rng_state().tolist(), (name, keys.tolist(), *rest), random.getstate()


def blob(y, x):
    rows, columns = np.mgrid[:48, :48]
    return sr.Image.from_array(np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 60).astype(np.float32))


def train():
    options = {"network": "affine+voxelmorph", "epochs": 2, "batch_size": 4, "device": "cpu", "label_weight": 1.0}
    return sr.train(DrawnPairs(8, 4, labels=True), **options)


def register(**options):
    return sr.register(blob(24, 24), blob(27, 22), device="cpu", preset="fast", **options)


def train_digit_classifiers():
    digits = np.random.default_rng(0).random((80, 12, 12))
    for _ in train_classifiers(DigitData(digits, np.arange(80) % 10, size=24), steps=2, batch=4, test_count=8):
        pass


CALLS = {
    "train": train,
    "register": lambda: register(family="affine+diffeomorphic"),
    "register with a search": lambda: register(family="rigid", start="search", similarity="mi"),
    "register with a model": lambda: register(model="box-2d", refine=2),
    "call a model": lambda: sr.load("box-2d")(blob(24, 24), blob(27, 22), device="cpu"),
    "generate shapes": lambda: next(
        iter(GeneratedShapes(Grid.from_spacing((32, 32)), count=2).batches("train", epoch=0, batch_size=2, seed=5))
    ),
    "train digit classifiers": train_digit_classifiers,
}


@pytest.mark.parametrize("name", CALLS)
def test_the_global_random_state_is_unchanged(name):
    before = random_states()
    CALLS[name]()
    assert random_states() == before


def test_the_global_random_state_does_not_change_the_result():
    torch.manual_seed(1)
    first = train().network.state_dict()
    torch.manual_seed(2)
    second = train().network.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    one = register(family="affine+diffeomorphic").transform.displacement(blob(24, 24).grid)
    torch.manual_seed(3)
    other = register(family="affine+diffeomorphic").transform.displacement(blob(24, 24).grid)
    assert np.array_equal(one, other)


def test_a_paused_training_reads_no_global_random_state():
    def run(disturb):
        steps = sr.train_steps(DrawnPairs(8, 4), network="voxelmorph", epochs=2, batch_size=4, device="cpu")
        try:
            while True:
                next(steps)
                if disturb:
                    torch.rand(3)
        except StopIteration as end:
            return end.value.network.state_dict()

    one, other = run(False), run(True)
    assert all(torch.equal(one[name], other[name]) for name in one)
