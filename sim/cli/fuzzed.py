"""The process in which ``fpswitch verify fuzz`` reads damaged inputs: lines of JSON on what it finds."""

import json
import sys
from pathlib import Path

from sim.cli import main
from sim.verification.fuzz.campaign import lines

if __name__ == "__main__":
    which, number, begin, *paths = sys.argv[1:]
    for each in lines(main, which, int(number), int(begin), *map(Path, paths)):
        print(json.dumps(each), flush=True)
