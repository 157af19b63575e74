"""Imported by the server that starts data workers, last of all, and by nothing else.

It leaves signals to the training. What was imported stays for good: a worker that looked for garbage in it would write
to, and so copy, every page that it shares with the server, which takes a second and hundreds of MiB each.
"""

import atexit
import gc

from mamoe.machine.workers import leave_signals_to_the_trainer

leave_signals_to_the_trainer()
gc.collect()
gc.freeze()
atexit.register(gc.unfreeze)  # some libraries count what is left of them when the server ends
