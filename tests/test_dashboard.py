"""An address of Dask's page is told only where there is a page."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sim.experiment.cluster import Cluster, _why_not
from sim.experiment.dashboard import page_at

WITHOUT_BOKEH = b"<p>Dask needs bokeh>=3.1.0 for the dashboard.</p>"


@pytest.fixture
def served():
    """A server that answers with a status and a text, and its address."""

    class Handler(BaseHTTPRequestHandler):
        answer = (200, b"")

        def do_GET(self):
            self.send_response(self.answer[0])
            self.end_headers()
            self.wfile.write(self.answer[1])

        def log_message(self, *about):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Handler, f"http://127.0.0.1:{server.server_port}/status"
        server.shutdown()


@pytest.mark.parametrize(
    ("answer", "is_there"),
    [
        ((200, b"<!DOCTYPE html><html>Dask: Status</html>"), True),
        ((200, WITHOUT_BOKEH), False),
        ((404, b"not found"), False),
        ((403, b"a password, please"), True),
    ],
)
def test_a_page_is_one_that_is_found_and_does_not_lack_bokeh(served, answer, is_there):
    handler, address = served
    handler.answer = answer
    assert page_at(address) == (address if is_there else "")


def test_what_does_not_answer_is_no_page():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for address in ("", f"http://127.0.0.1:{port}/status", "no address"):
        assert page_at(address) == ""


def test_a_scheduler_that_is_started_here_names_no_page():
    distributed = pytest.importorskip("distributed")
    cluster = Cluster("local:1", print)
    try:
        assert isinstance(cluster._client, distributed.Client)
        assert cluster.dashboard == ""
    finally:
        cluster.close(at_once=True)


def test_a_scheduler_that_ends_the_connection_is_not_told_as_nobody():
    error = OSError("Timed out trying to connect")
    error.__cause__ = ConnectionResetError()
    for each in (error, ConnectionResetError()):
        assert _why_not(each).startswith("somebody answers there, and ends the connection")
    assert _why_not(ConnectionRefusedError("no")).startswith("nobody answers (no)")
