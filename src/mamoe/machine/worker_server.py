"""Imported by the server that starts data workers, and by nothing else: it leaves signals to the training."""

from mamoe.machine.workers import leave_signals_to_the_trainer

leave_signals_to_the_trainer()
