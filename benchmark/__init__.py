"""Our registration and its peers on the same pairs: run ``python -m benchmark --data DIR`` from the repository root.

Nothing here is shipped with the package. The peers (itk-elastix, antspyx, dipy) come with the project's ``benchmark``
extra, in an environment of their own.
"""
