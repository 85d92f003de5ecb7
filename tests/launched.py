"""What `torchrun --nproc-per-node=N SCRIPT` does, by forks of one Python: `python launched.py N SCRIPT`.

Where a process fails or all of them hang, they are ended, and what they printed so far is there.
"""

from __future__ import annotations

import faulthandler
import os
import runpy
import socket
import sys
import time

import torch.distributed as dist
import torch.multiprocessing as mp

LONGEST = 60


def work(rank, world, port, script):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), TORCHELASTIC_USE_AGENT_STORE="True")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    sys.stdout.reconfigure(line_buffering=True)
    faulthandler.dump_traceback_later(LONGEST - 5, file=sys.stderr)  # where it hangs
    sys.argv = [script]
    runpy.run_path(script, run_name="__main__")


def launch(world, script):
    """Run the script in so many processes; the error of the first that fails."""
    listener = socket.create_server(("127.0.0.1", 0))  # a port that no other test has
    port = listener.getsockname()[1]
    processes = mp.start_processes(work, (world, port, script), nprocs=world, join=False, start_method="fork")
    store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    end = time.monotonic() + LONGEST
    while not processes.join(timeout=max(0.1, end - time.monotonic())):
        if time.monotonic() > end:
            for process in processes.processes:
                process.kill()
            raise SystemExit(f"killed after {LONGEST} s")
    del store


if __name__ == "__main__":
    launch(int(sys.argv[1]), sys.argv[2])
