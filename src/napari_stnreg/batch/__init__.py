"""Register many pairs of images with one setting or model, with a table of scores and a summary page.

>>> from napari_stnreg.batch import batch_steps, read_jobs
>>> for step in batch_steps(read_jobs("jobs.csv"), "results"):  # doctest: +SKIP
...     print(step.name, step.state)
"""

from napari_stnreg.batch.jobs import Job, pair_folders, read_jobs
from napari_stnreg.batch.run import BatchProgress, BatchResult, batch_steps

__all__ = ["BatchProgress", "BatchResult", "Job", "batch_steps", "pair_folders", "read_jobs"]
