"""Whether the programs of `fpswitch calibrate` can be made and run on this machine."""

from sim.calibrate import machine, programs


def refusal() -> str:
    """Why this machine cannot be measured, or nothing."""
    try:
        machine.refuse_other_machines()
        programs.compiler()
    except Exception as error:
        return str(error)
    return ""
