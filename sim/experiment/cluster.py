"""Workers on other machines, or started here, by Dask distributed (the extra ``cluster``)."""

import asyncio
import logging
import re
import signal
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.resource_tracker import ensure_running
from typing import Any, Final

from sim.errors import InputError
from sim.experiment.dashboard import page_at
from sim.experiment.pool import Gone, Outcome, Say, deaths_by_dask, quietly
from sim.experiment.workers import Task, differences, versions, work

LOCAL: Final = re.compile(r"local:([1-9]\d{0,3})", re.ASCII)
REMOTE: Final = re.compile(r"(tcp|tls)://\S+:\d{1,5}", re.ASCII)
MOST_LOCAL: Final = 1024
CONNECT_S: Final = 20
LOOK_S: Final = 1.0
"""How often the scheduler is asked which workers it has."""
LOGGERS: Final = ("distributed", "distributed.client")
TTL_S: Final = 60
"""Seconds without a sign of life after which a worker started here counts as dead; Dask's own are 300."""


def _connected(kind: Any, where: Any) -> Any:
    """A client of the scheduler there."""
    client = kind.__new__(kind)
    try:
        client.__init__(where, timeout=CONNECT_S, set_as_default=False)
    except BaseException:
        client.status = "closed"  # or the end of the process would wait for a connection that never was
        raise
    return client


def _started(n: int) -> Any:
    """A scheduler here with ``n`` workers, which get no Ctrl-C: it is for this process, and they would say a traceback.

    The threads that start processes, also later, inherit the mask of the one that begins.
    """
    import dask
    import distributed

    about = {"distributed.scheduler.allowed-failures": 0, "distributed.scheduler.worker-ttl": f"{TTL_S} s"}
    ensure_running()  # or the thread of the first worker would begin it, and take SIGINT again afterwards
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with dask.config.set(about):
        return distributed.LocalCluster(
            n_workers=n, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        )


async def _stopped(cluster: Any, limit_s: float) -> None:
    """Ends the workers that were started here; those that take longer are killed, also if they are stopped."""
    await asyncio.gather(*(nanny.close(timeout=limit_s) for nanny in cluster.workers.values()))


def _end(starting: "Future[Any]") -> None:
    """Ends what nobody waits for any more, once it has started."""
    with suppress(Exception):
        starting.result().close()


def _why_not(error: BaseException) -> str:
    """Why there is no connection: Dask tells of TLS as of a host that is not there, with the reason as a cause."""
    causes: list[BaseException] = []
    after: BaseException | None = error
    while after is not None and after not in causes:
        causes.append(after)
        after = after.__cause__ or after.__context__
    for each in causes:
        if isinstance(each, ssl.SSLCertVerificationError):
            return (
                "somebody answers there, with a certificate that the CA of Dask's configuration here has not signed, "
                f"or that is not valid ({each.verify_message})"
            )
    for each in causes:
        if isinstance(each, ssl.SSLError):
            return f"somebody answers there, but TLS fails ({each.reason or each})"
        if "cannot convert to SSL" in str(each):  # Tornado's words where the scheduler's plain text came first
            return "somebody answers there, but not with TLS"
    if any(isinstance(each, ConnectionResetError) for each in causes):
        return (
            "somebody answers there, and ends the connection (of a scheduler with TLS the address is tls://HOST:PORT)"
        )
    return f"nobody answers ({str(error) or type(error).__name__})"


class Cluster:
    """The workers of a Dask scheduler at ``tcp://HOST:PORT`` (or tls), or of one that is started here (``local:N``).

    Raises :class:`InputError` for another address, without Dask, if nobody answers, and if all workers that are there
    have another version of what numbers depend on; those that have are given nothing to do, and ``say`` tells which.
    """

    def __init__(self, address: str, say: Say) -> None:
        local = LOCAL.fullmatch(address)
        if not (local and int(local[1]) <= MOST_LOCAL) and not REMOTE.fullmatch(address):
            raise InputError(f"cluster {address!r} (allowed: tcp://HOST:PORT, tls://HOST:PORT, local:N with N to 1024)")
        try:
            import distributed
        except ImportError as error:
            raise InputError(f"cluster {address}: needs Dask: pip install 'fpswitch[cluster]'") from error
        self.address, self._say = address, say
        self._levels = {name: logging.getLogger(name).level for name in LOGGERS}
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters there is said here, in a sentence
        self._cluster: Any = None
        self._client: Any = None
        self._accepted: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self._looked = 0.0
        self._executor: Executor | None = None
        self._begun: set[Future[Outcome]] = set()
        try:
            if local:
                self._start(int(local[1]))
            self._connect(distributed.Client)
            self._look()
            if self._refused and not self._accepted:
                raise InputError(f"cluster {address}: {next(iter(self._refused.values()))}")
        except BaseException:
            self.close(at_once=True)
            raise

    def _start(self, n: int) -> None:
        """Starts ``n`` workers here; an interrupt does not wait for that."""
        with_no_interrupts = ThreadPoolExecutor(1)
        starting = with_no_interrupts.submit(_started, n)
        with_no_interrupts.shutdown(wait=False)
        try:
            self._cluster = starting.result()
        except (OSError, RuntimeError) as error:
            raise InputError(f"cluster {self.address}: cannot be started ({error})") from error
        except KeyboardInterrupt:
            starting.add_done_callback(_end)
            raise

    def _connect(self, kind: Any) -> None:
        """Becomes a client of the scheduler."""
        try:
            self._client = _connected(kind, self._cluster or self.address)
        except TypeError as error:  # which Dask says of TLS without certificates in its configuration
            raise InputError(
                f"cluster {self.address}: no certificates for it (needed: those of docs/cluster.md)"
            ) from error
        except RuntimeError as error:  # of tcp:// where the configuration asks for TLS
            raise InputError(f"cluster {self.address}: {error}") from error
        except (OSError, ValueError) as error:
            raise InputError(f"cluster {self.address}: {_why_not(error)}") from error
        self.dashboard = page_at(str(self._client.dashboard_link or ""))

    def _look(self) -> None:
        """Which workers there are, and which of them may work for this driver."""
        self._looked = time.monotonic()
        there: Mapping[str, int] = self._client.nthreads()
        before = self._accepted.keys() | self._refused.keys()
        new = [address for address in there if address not in before]
        theirs: Mapping[str, Any] = self._client.run(versions, workers=new, on_error="return") if new else {}
        for address, found in theirs.items():
            if isinstance(found, Mapping):
                other = differences(found, versions())
                why = f"the worker {address} is refused: it has {other}" if other else ""
            else:
                why = f"the worker {address} is refused: it has no fpswitch ({found})"
            if why:
                self._refused[address] = why
                self._say(why)
        accepted = {address: n for address, n in there.items() if address not in self._refused}
        if accepted.keys() != self._accepted.keys() and self._executor is not None and self._refused:
            self._executor = None
        if not accepted and self._accepted:
            self._say(f"{self.address} has no worker left; this waits for one")
        self._accepted = accepted

    def workers(self) -> int:
        if time.monotonic() - self._looked > LOOK_S:
            try:
                self._look()
            except (OSError, RuntimeError, TimeoutError) as error:
                raise self._gone(error) from error
        return sum(self._accepted.values())

    def submit(self, task: Task) -> "Future[Outcome]":
        if self._executor is None:
            only: dict[str, Any] = {"workers": list(self._accepted), "allow_other_workers": True}
            self._executor = self._client.get_executor(pure=False, retries=0, **(only if self._refused else {}))
        try:
            future: Future[Outcome] = self._executor.submit(work, task)
        except (OSError, RuntimeError) as error:
            raise self._gone(error) from error
        self._begun.add(future)
        future.add_done_callback(self._begun.discard)
        return future

    def in_flight(self) -> float:
        return 0.0

    def deaths(self, error: BaseException) -> int:
        if isinstance(error, CancelledError | OSError) or type(error).__name__ == "FutureCancelledError":
            raise self._gone(error) from error
        return deaths_by_dask(error)

    def refuse(self, why: str) -> None:
        self._looked = 0.0
        if not self.workers():
            raise Gone(why)

    def _gone(self, error: BaseException) -> Gone:
        return Gone(f"the scheduler at {self.address} is gone ({str(error) or type(error).__name__})")

    def close(self, *, at_once: bool) -> None:
        limit_s = 1 if at_once else 10
        with quietly(at_once=at_once):
            for future in list(self._begun):
                future.cancel()
        if self._client is not None:
            with quietly(at_once=at_once):
                self._client.close(timeout=limit_s)
            self._client.status = "closed"  # or the end of the process would wait for it once more
        if self._cluster is not None:
            with quietly(at_once=at_once):
                self._cluster.sync(_stopped, self._cluster, limit_s / 2)
            with quietly(at_once=at_once):
                self._cluster.close(timeout=10)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
