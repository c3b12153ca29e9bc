"""Whole folders: many pairs with one setting or model, a row of scores each, and a page that shows them.

>>> from napari_stnreg.batch import batch_steps, read_jobs
>>> for step in batch_steps(read_jobs("jobs.csv"), "results"):  # doctest: +SKIP
...     print(step.name, step.state)
"""

from napari_stnreg.batch.jobs import Job, read_jobs
from napari_stnreg.batch.run import BatchProgress, BatchResult, batch_steps

__all__ = ["BatchProgress", "BatchResult", "Job", "batch_steps", "read_jobs"]
