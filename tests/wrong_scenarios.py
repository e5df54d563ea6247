"""A scenario that is right, and what makes others of it that are wrong."""

from command import run

GOOD = """
title = "good"

[run]
measure = "10 ms"

[host]
cpus = 4
cpu = ["sapphire-rapids"]
tsc = "2 GHz"

[kernel]
guest_cet = true

[guests.web]
vcpus = 2

[guests.web.exits.io]
every = "20 kHz"

[threads.daemon]
compute = "1 ms"

[interrupts.network]
every = "1 kHz"
time = "1 us"
"""

RUN, HOST, KERNEL = 'measure = "10 ms"', "cpus = 4", "guest_cet = true"
GUEST, EXIT, THREAD, INTERRUPT = "vcpus = 2", 'every = "20 kHz"', 'compute = "1 ms"', 'time = "1 us"'
CPU, TSC = 'cpu = ["sapphire-rapids"]', 'tsc = "2 GHz"'


def instead(old, new):
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def also(old, line):
    return instead(old, f"{old}\n{line}")


def cpu(name, text=GOOD):
    return text.replace("sapphire-rapids", name)


def sweep(line):
    return f"{GOOD}\n[sweep]\n{line}\n"


FILES = {
    "good.csv": b"t\n1\n",
    "twice.csv": b"t,t\n1,2\n",
    "short.csv": b"t,u\n1\n",
    "text.csv": b"t\n1\nx\n",
    "nan.csv": b"t\nnan\n",
    "negative.csv": b"t\n-1\n",
    "empty.csv": b"t\n",
    "open.csv": b't\n"1\n',
    "binary.csv": b"t\n\xff\n",
    "circle.toml": b'extends = "wrong.toml"\n',
}


def refusal(capsys, *arguments):
    """The message of a command that refuses its input, and nothing else."""
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("fpswitch: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def judged(wrong, folder, capsys):
    """That this content of a file is refused where it says, with what it says."""
    content, *says = wrong
    (folder / "wrong.toml").write_bytes(content.encode() if isinstance(content, str) else content)
    message = refusal(capsys, "show", "wrong.toml")
    where = "" if says[0] == "wrong.toml" else "wrong.toml: "
    assert message.startswith(f"fpswitch: {where}{says[0]}") or f".{says[0]}:" in message
    for each in says[1:]:
        assert each in message
