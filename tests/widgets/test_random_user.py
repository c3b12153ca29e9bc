"""A random user of all panels, in short; ``python -m benchmark.random_user`` is the long form."""

from __future__ import annotations

import pytest

from benchmark.random_user import RandomUser, reuse_programs


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_random_user_causes_no_exception(viewer, seed, monkeypatch):
    from vispy.gloo import glir

    for owner, name in (
        (glir.GlirProgram, "delete"),
        (glir.GlirProgram, "link_program"),
        (glir.GlirShader, "set_data"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # given back at the end
    reuse_programs()
    user = RandomUser(viewer, seed)
    report = user.run(events=400, seconds=10)
    assert not report.errors, report.errors[0]
    assert not report.threads
    assert sum(report.events.values()) > 5
    assert not viewer.layers
    assert not user.panels()
