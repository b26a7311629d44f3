"""What the workers on this machine are forks of: a process loads it once; see `cluster`.

Nothing else imports it, for it is no module to have by the way: who does no longer heeds Ctrl-C,
which is for the process that the workers end with.
"""

import logging
import signal

import torch._dynamo  # noqa: F401  by optimisers, when they first step

from ddlib.study import jobs as work

signal.signal(signal.SIGINT, signal.SIG_IGN)
# Dask's own words, to the last: what a job raises is told, and how a worker leaves is no news.
logging.getLogger("distributed").setLevel(logging.CRITICAL)
work.code()  # of what is loaded, whatever becomes of its files
