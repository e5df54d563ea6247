"""`fpswitch verify record`: vectors of this machine's own processor."""

import json
from itertools import chain
from pathlib import Path

import click

from sim.cli.common import emit_of_file, json_option
from sim.cli.timeline import check_output, whole


@click.command(short_help="Record what this processor's XSAVE instructions do.")
@click.argument("out", type=click.Path(path_type=Path), metavar="FILE.jsonl")
@click.option("--vectors", "number", default=800, show_default=True, metavar="N", type=click.IntRange(min=1))
@click.option("--seed", default=1, show_default=True, metavar="N", type=click.IntRange(min=0))
@click.option("--force", is_flag=True, help="Overwrite the file.")
@json_option
def record(out: Path, number: int, seed: int, force: bool, as_json: bool) -> None:
    """Record what XSAVE, XSAVEOPT, XSAVEC and XRSTOR do on this processor at CPL 3.

    Random sequences of writes, zeroing instructions, saves and restores of x87, SSE and AVX state, and of AVX-512 and
    AMX state where processor and system have it; each runs until four runs in a row agree.  800 take ten seconds. A
    processor with AVX and XSAVEC and a C compiler are needed, no privileges; AMX needs Linux 5.16, which is asked for
    permission. PKRU is not recorded. The schema is in tests/data/vectors/README.md; on machines with the same
    components the same seed draws the same sequences.

    With --json: {"file", "model", "vectors", "unstable" (left out, since their runs did not agree)}.

    \b
    Examples:
      fpswitch verify record mine.jsonl && fpswitch verify vectors mine.jsonl
      fpswitch verify vectors --free sapphire-rapids mine.jsonl
    """
    from sim.verification.vectors import drawing, recording

    check_output(out, force)
    unstable: list[None] = []
    with recording.recorder() as machine, whole(out) as file:
        vectors = recording.vectors(
            machine, drawing.draw(number, seed, machine.recorded), lambda: unstable.append(None)
        )
        for line in chain([machine.meta()], vectors):
            file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
    recorded = number - len(unstable)
    document = {"file": str(out), "model": machine.model, "vectors": recorded, "unstable": len(unstable)}
    text = f"{out}: {document['vectors']} vectors of {machine.model}"
    emit_of_file(
        out,
        document,
        text + (f", {len(unstable)} left out since their runs did not agree" if unstable else ""),
        as_json,
    )
