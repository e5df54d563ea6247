"""Workers on other machines, or started here, by Dask distributed (the extra ``cluster``)."""

import asyncio
import logging
import re
import signal
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.resource_tracker import ensure_running
from threading import Thread
from typing import Any, Final

from sim.errors import InputError
from sim.experiment.dashboard import page_at
from sim.experiment.pool import Gone, Outcome, Say, deaths_by_dask, quietly
from sim.experiment.workers import Task, differences, versions, work

LOCAL: Final = re.compile(r"local:([1-9]\d{0,3})", re.ASCII)
REMOTE: Final = re.compile(r"(tcp|tls)://\S+:\d{1,5}", re.ASCII)
MOST_LOCAL: Final = 1024
CONNECT_S: Final = 20
"""Seconds in which there must be a connection, at first, or again where one is lost."""
LOOK_S: Final = 1.0
"""How often the scheduler is asked which workers it has."""
ANSWER_S: Final = 10.0
"""Seconds after which it is told that the scheduler, or a worker, does not answer; nothing waits longer for them."""
LOGGERS: Final = ("distributed", "distributed.client")
LOST: Final = "scheduler-connection-lost"
"""Dask's reason where it has cancelled a future and is connecting again."""


def _connected(kind: Any, where: Any) -> Any:
    """A client of the scheduler there; Dask itself has no limit for one that takes the connection and says nothing."""
    client = kind.__new__(kind)
    connecting: Future[Any] = Future()

    def connect() -> None:
        try:
            client.__init__(where, timeout=CONNECT_S, set_as_default=False)
        except BaseException as error:
            connecting.set_exception(error)
        else:
            connecting.set_result(client)

    Thread(target=connect, daemon=True).start()
    limit_s = CONNECT_S + ANSWER_S
    try:
        wait([connecting], limit_s)
        if not connecting.done():
            raise TimeoutError(f"no word for {limit_s:g} s from what takes connections there")
        return connecting.result()
    except BaseException:
        client.status = "closed"  # or the end of the process would wait for a connection that never was
        connecting.add_done_callback(_end)
        raise


def _started(n: int) -> Any:
    """A scheduler here with ``n`` workers, which get no Ctrl-C: it is for this process, and they would say a traceback.

    The threads that start processes, also later, inherit the mask of the one that begins.
    """
    import dask
    import distributed

    # without a TTL: after a driver was stopped, as by a laptop that sleeps, its scheduler would take all for dead
    about = {"distributed.scheduler.allowed-failures": 0, "distributed.scheduler.worker-ttl": None}
    ensure_running()  # or the thread of the first worker would begin it, and take SIGINT again afterwards
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with dask.config.set(about):
        return distributed.LocalCluster(
            n_workers=n,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",  # None is port 8787, and a warning where that is taken
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
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


@dataclass(slots=True)
class _Asked:
    """A worker that has not said yet what it is."""

    answer: "Future[Any] | None" = None
    at: float = field(default_factory=time.monotonic)
    is_told: bool = False

    def cancel(self) -> None:
        if self.answer is not None:
            self.answer.cancel()


@dataclass(slots=True, eq=False)
class _Begun:
    """A task that has begun, and the workers that it is for; empty for all."""

    only: frozenset[str]


class Cluster:
    """The workers of a Dask scheduler at ``tcp://HOST:PORT`` (or tls), or of one that is started here (``local:N``).

    Raises :class:`InputError` for another address, without Dask, if nobody answers, and if all workers that are there
    have another version of what numbers depend on; those that have, or do not answer, are given nothing to do, and
    ``say`` tells which.
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
        self._asked: dict[str, _Asked] = {}
        self._looked, self._is_silent = 0.0, False
        self._only: frozenset[str] = frozenset()
        self._begun: dict[Future[Outcome], _Begun] = {}
        self._stranded = 0
        try:
            if local:
                self._start(int(local[1]))
            self._connect(distributed.Client)
            self._look_first()
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

    def _look_first(self) -> None:
        try:
            self._look(wait_s=ANSWER_S)
        except (OSError, RuntimeError) as error:
            raise InputError(f"cluster {self.address}: {_why_not(error)}") from error
        if self._accepted:
            return
        if self._refused and not self._asked:
            raise InputError(f"cluster {self.address}: {next(iter(self._refused.values()))}")
        self._say(f"{self.address} has no worker yet; this waits for one")

    def _look(self, wait_s: float = 0.0) -> None:
        """Which workers there are, and which of them may work for this driver.

        A worker is asked, and its answer is taken when it is there: one that hangs holds up nobody.
        """
        if self._client.status in ("closing", "closed"):
            raise ConnectionError
        try:
            there: Mapping[str, int] = self._client.nthreads(callback_timeout=ANSWER_S)
        except OSError as error:
            how = f"has not answered for {ANSWER_S:g} s; this waits for it"
            if not isinstance(error, TimeoutError):  # Dask is connecting again
                how = f"has ended the connection; this tries for {CONNECT_S} s to connect again"
            if not self._is_silent:
                self._say(f"the scheduler at {self.address} {how}")
            self._is_silent, self._looked = True, time.monotonic()
            return
        for address in self._asked.keys() - there.keys():
            self._asked.pop(address).cancel()
        self._refused = {address: why for address, why in self._refused.items() if address in there}
        for address in there.keys() - self._accepted.keys() - self._refused.keys():
            asked = self._asked.setdefault(address, _Asked())
            if asked.answer is None:
                asked.answer = self._ask(address)
        wait([asked.answer for asked in self._asked.values() if asked.answer], timeout=wait_s)
        answered = {address for address, asked in list(self._asked.items()) if self._has_answered(address, asked)}
        self._take(
            {address: n for address, n in there.items() if address in answered or address in self._accepted},
            all_of_them=not self._refused and not self._asked,
        )
        self._is_silent, self._looked = False, time.monotonic()

    def _ask(self, address: str) -> "Future[Any]":
        question = self._client.run(versions, workers=[address], on_error="return", asynchronous=True)
        return asyncio.run_coroutine_threadsafe(question, self._client.loop.asyncio_loop)

    def _has_answered(self, address: str, asked: _Asked) -> bool:
        """Whether a worker has said that it has what this driver has; one that has something else is refused."""
        why = ""
        if asked.answer is not None and asked.answer.done():
            found = asked.answer.exception() or asked.answer.result().get(address)
            if not isinstance(found, OSError):
                del self._asked[address]
                if not isinstance(found, Mapping):
                    why = f"it has no fpswitch ({found})"
                elif other := differences(found, versions()):
                    why = f"it has {other}"
                if why:
                    self._refused[address] = f"the worker {address} is refused: {why}"
                    self._say(self._refused[address])
                return not why
            asked.answer, why = None, f" ({found})"  # it is asked again
        if not asked.is_told and time.monotonic() - asked.at >= ANSWER_S:
            asked.is_told = True
            self._say(
                f"the worker {address} has not answered for {ANSWER_S:g} s{why}; it gets nothing to do until it does"
            )
        return False

    def _take(self, accepted: dict[str, int], *, all_of_them: bool) -> None:
        """Uses these workers; where there are others, tasks are for these alone, lest Dask move them to the others."""
        only = frozenset() if all_of_them else frozenset(accepted)
        self._only = only
        if not accepted and self._accepted:
            self._say(f"{self.address} has no worker left; this waits for one")
        self._accepted = accepted
        for future, begun in list(self._begun.items()):
            if begun.only and not begun.only & accepted.keys() and future.cancel():
                self._stranded += 1

    def workers(self) -> int:
        if time.monotonic() - self._looked > LOOK_S:
            try:
                self._look()
            except (OSError, RuntimeError) as error:
                raise self._gone(error) from error
        return sum(self._accepted.values())

    def submit(self, task: Task) -> "Future[Outcome]":
        begun = _Begun(self._only)
        future = asyncio.run_coroutine_threadsafe(self._done(task, begun), self._client.loop.asyncio_loop)
        self._begun[future] = begun
        future.add_done_callback(lambda done: self._begun.pop(done, None))
        return future

    async def _done(self, task: Task, begun: _Begun) -> Outcome:
        """What a worker makes of a task; it goes out again where the connection was lost, to workers that are there
        then.

        The futures of Dask's own executor never end where a worker dies between its last word and its answer.
        """
        while True:
            begun.only = self._only
            only = {"workers": list(begun.only), "allow_other_workers": False} if begun.only else {}
            sent = self._client.submit(work, task, pure=False, retries=0, **only)
            answer: asyncio.Future[Outcome] = asyncio.ensure_future(self._client.gather(sent, asynchronous=True))
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # or asyncio says a traceback
            try:
                return await asyncio.shield(answer)  # Dask fetches answers together, and would cancel all with one
            except asyncio.CancelledError:
                with suppress(Exception):  # the client is closed
                    await self._client.cancel([sent], asynchronous=True)
                raise
            except CancelledError as error:
                if getattr(error, "reason", "") != LOST:
                    raise
            except OSError:  # of the connection, while the answer was fetched, or of the task
                if sent.status == "error" or self._client.status in ("closing", "closed"):
                    raise
            begun.only = frozenset()
            lost = time.monotonic()
            while self._is_silent or self._looked < lost or not self._accepted:  # _look() ends what takes too long
                await asyncio.sleep(LOOK_S / 10)

    def in_flight(self) -> float:
        return 0.0

    def deaths(self, error: BaseException) -> int:
        if isinstance(error, CancelledError) and self._stranded:  # all workers that it was for are gone
            self._stranded -= 1
            return 1
        if isinstance(error, CancelledError | OSError) or type(error).__name__ == "ClosedClientError":
            raise self._gone(error) from error
        return deaths_by_dask(error)

    def refuse(self, why: str) -> None:
        self._looked = 0.0
        if not self.workers() and not self._asked:
            raise Gone(why)

    def _gone(self, error: BaseException) -> Gone:
        why = str(error) or type(error).__name__
        if self._client.status in ("closing", "closed"):  # as Dask leaves it
            why = f"no connection for {CONNECT_S} s"
        return Gone(f"the scheduler at {self.address} is gone ({why})")

    def close(self, *, at_once: bool) -> None:
        limit_s = 1 if at_once else 10
        with quietly(at_once=at_once):
            for future in list(self._begun):
                future.cancel()
            for asked in self._asked.values():
                asked.cancel()
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
