"""`python -m automl.engines` is a worker. It looks for garbage once all is loaded, not before.

Python would look through all of PyTorch many times while it is imported, which takes a fifth of the
time, and again whenever a worker has been long at work.
"""

import gc

gc.disable()

from automl.engines import worker  # noqa: E402 # nobody looks for garbage in it

gc.freeze()
gc.enable()
worker.main()
