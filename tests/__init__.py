"""The tests: a mirror of the source tree, and what they share."""

import os

# Before torch is imported: worker processes of pytest-xdist that each start a thread per core get in each other's way.
if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
