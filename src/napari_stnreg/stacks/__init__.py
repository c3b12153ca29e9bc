"""Align serial sections: preprocess each section, match pairs, solve for all sections jointly, and measure quality.

The steps are pure functions of small arrays, so they run in a loop, in threads or on a cluster:

- preprocess a section: :func:`~napari_stnreg.stacks.preprocessing.features.prepare`
- match a pair: :func:`~napari_stnreg.stacks.matching.coarse.coarse_match` and
  :func:`~napari_stnreg.stacks.matching.fine.fine_match`
- solve for the stack: :func:`~napari_stnreg.stacks.solver.pose_graph.solve_poses` and
  :func:`~napari_stnreg.stacks.solver.elastic.solve_elastic`
- measure the result: :mod:`~napari_stnreg.stacks.quality.sections`
"""
