import subprocess
import sys

import pytest

WORK = """
import gc
from mamoe.machine.workers import start_importing, worker_context

def look(answers):
    answers.put(gc.get_freeze_count())

if __name__ == "__main__":
    start_importing(["mamoe.errors"])
    context = worker_context()
    answers = context.SimpleQueue()
    worker = context.Process(target=look, args=(answers,))
    worker.start()
    print(answers.get())
    worker.join()
"""


@pytest.mark.slow
def test_workers_share_what_their_server_imported(tmp_path):
    """Looking for garbage in it would copy every page of it into each of them."""
    script = tmp_path / "work.py"
    script.write_text(WORK)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert int(done.stdout) > 10_000
