"""What the workers of test_processes.py do; each of them imports this, and thus neither pytest nor the simulator."""

import os
import signal
import struct
import threading
import time

from sim.errors import InputError


def doubled(task):
    """The double of a task; raises for None."""
    time.sleep(0.002)
    if task is None:
        raise InputError("none")
    return 2 * task


def blocked(task):
    """Whether SIGINT has been blocked in this worker since it was started; ``task`` keeps it busy for so long, in s."""
    time.sleep(task)
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def killed_in_an_answer(connection, work, beside, number):
    """A worker that sends half of an answer of 1 MB, and dies."""
    connection.recv()
    os.write(connection.fileno(), struct.pack("!i", 1_000_000) + b"x" * 500_000)
    os.kill(os.getpid(), signal.SIGKILL)


class Unsendable(InputError):
    """Has what no other process can have."""

    def __init__(self):
        super().__init__("of one process")
        self.lock = threading.Lock()


def raises_unsendable(task):
    raise Unsendable


def dies_twice(task):
    """Kills its worker the first two times that it is done."""
    number, place = task
    with open(f"{place}/{number}", "a+") as tries:
        tries.write("x")
        if tries.tell() <= 2:
            tries.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies(task):
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return task
