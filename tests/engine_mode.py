"""How tests/both_engines.py runs the loop: plain Python, or compiled where ENGINE_HOSTS says how many hosts to compare.

It is imported before anything of ``sim.engine``.
"""

import os

COMPILED = "ENGINE_HOSTS" in os.environ
HOSTS_COMPARED = int(os.environ.get("ENGINE_HOSTS", "50"))

if not COMPILED:
    os.environ["NUMBA_DISABLE_JIT"] = "1"
