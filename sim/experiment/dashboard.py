"""Whether a Dask scheduler has a page to look at: only with bokeh, and one that is started here has none."""

from http.client import HTTPException
from typing import Final
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

LIMIT_S: Final = 2.0
WITHOUT_BOKEH: Final = b"Dask needs"
"""How the page begins that says so in its place (distributed 2026.8.0, http/scheduler/missing_bokeh.py)."""
BEGINNING: Final = 1000
NOT_FOUND: Final = 404


def page_at(address: str) -> str:
    """The address, or an empty text if there is no page."""
    if not address:
        return ""
    try:
        with build_opener(ProxyHandler({})).open(address, timeout=LIMIT_S) as page:
            return "" if WITHOUT_BOKEH in page.read(BEGINNING) else address
    except HTTPError as error:  # behind a proxy it may want a password
        return "" if error.code == NOT_FOUND else address
    except (OSError, ValueError, HTTPException):
        return ""
