"""Serial sections: what each shows, how neighbors lie to each other, and where every section belongs.

The pieces are pure functions of small arrays, so that they run in a loop, in threads or on a cluster alike:
:func:`~napari_stnreg.stacks.preprocessing.features.prepare` a section, match pairs of them
(:func:`~napari_stnreg.stacks.matching.coarse.coarse_match`, :func:`~napari_stnreg.stacks.matching.fine.fine_match`), solve for the whole
stack (:func:`~napari_stnreg.stacks.solver.pose_graph.solve_poses`, :func:`~napari_stnreg.stacks.solver.elastic.solve_elastic`), and measure
what came of it (:mod:`~napari_stnreg.stacks.quality.sections`).
"""
