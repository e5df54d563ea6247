"""A file of another kind than the command wants is named, with what takes it; one of the right kind keeps its error."""

import os
import shutil
from pathlib import Path

import pytest
from command import run

import sim
from sim import kinds

PACKAGE = Path(sim.__file__).parent

SCENARIO = """title = "a"

[run]
measure = "1 ms"
replications = 1

[host]
cpu = ["zen4"]
cpus = 1

[threads.daemon]
compute = "1 ms"
sleep = "1 ms"
"""

COPIED = {
    "carried.toml": "kernel/data/carried/cet-s.toml",
    "strategy.toml": "kernel/data/strategies/no-cet.toml",
    "costs.toml": "costs/tables/zen4.toml",
    "cpu.toml": "xsave/cpus/zen4.toml",
}


def shipped(name):
    return (PACKAGE / COPIED[name]).read_text()


WRITTEN = {
    "scenario.toml": SCENARIO,
    "trace.txt": "   bash-1 [000] d..2.  1.000000: sched_switch: prev_comm=bash\n",
    "boot.log": "x86/fpu: Enabled xstate features 0x7, context size is 832 bytes, using 'compacted' format.\n",
    "registers.txt": "CPU 0:\n   0x00000001 0x00: eax=0x000806f8 ebx=0x00800800 ecx=0x7ffafbff edx=0xbfebfbff\n",
    "exits.txt": "Analyze events for all VMs, all VCPUs:\n\n     VM-EXIT    Samples  Samples%     Time%\n\n",
    "rt-app.json": '{ "tasks" : { "t": { "run": 1000, "sleep": 1000 } } }\n',
}

SAID = {
    "carried.toml": "a carried state (for --carried, or kernel.carried of a scenario)",
    "strategy.toml": "a strategy (for --strategies, --strategy, or run.strategies of a scenario)",
    "costs.toml": "a cost table (for fpswitch costs show, --costs, or host.costs of a scenario)",
    "cpu.toml": "a CPU profile (for fpswitch cpu show, --cpu, or host.cpu of a scenario)",
    "scenario.toml": "a scenario (for fpswitch run or show)",
    "manifest.json": "the manifest of a result directory (fpswitch run FILE repeats the run",
    "trace.txt": "a trace (for fpswitch replay, fit or timeline)",
    "boot.log": "a boot log (for fpswitch layout --boot-log)",
    "registers.txt": "a dump of CPUID registers (for fpswitch cpu import)",
    "exits.txt": "a table of perf kvm stat (for --perf-kvm-stat of fpswitch new or price)",
    "rt-app.json": "a configuration of rt-app (for fpswitch new --rt-app)",
    "result": "a result directory (for fpswitch compare, report or uncertainty)",
}

OURS = ("carried.toml", "strategy.toml", "costs.toml", "cpu.toml", "scenario.toml", "manifest.json")

COMMANDS = {
    "a scenario": ("run FILE --out new", ["scenario.toml", "manifest.json"]),
    "a scenario to show": ("show FILE", ["scenario.toml", "manifest.json"]),
    "a scenario to run in results": ("run FILE", ["scenario.toml", "manifest.json"]),
    "a scenario to vary": (
        "run FILE --design lhs:4 --range host.cpus=1..2 --out new",
        ["scenario.toml", "manifest.json"],
    ),
    "a carried state": ("flow halt --carried FILE", ["carried.toml"]),
    "a strategy": ("flow halt --strategy FILE", ["strategy.toml"]),
    "a cost table": ("costs show FILE", ["costs.toml"]),
    "a table of perf kvm stat": ("price --perf-kvm-stat FILE", ["exits.txt", "result"]),
    "a dump of CPUID registers": ("cpu import FILE", ["registers.txt"]),
    "a result directory": ("compare FILE", ["result"]),
    "a result directory to look at": ("status FILE", ["result"]),
    "a configuration of rt-app": ("new new.toml --rt-app FILE", ["rt-app.json"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One file of each kind, and a result directory."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, source in COPIED.items():
        shutil.copy(PACKAGE / source, folder / name)
    for name, text in WRITTEN.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def there(folder, capsys, monkeypatch):
    """The folder as current directory."""
    monkeypatch.chdir(folder)
    if not (folder / "result").is_dir():
        status, _, err = run(capsys, "run", "scenario.toml", "--out", "result")
        assert status == 0, err
        shutil.copy("result/manifest.json", ".")


def command(capsys, line, file):
    return run(capsys, *(file if word == "FILE" else word for word in line.split()))


@pytest.mark.parametrize("wanted", COMMANDS)
def test_a_file_of_another_kind_is_named_with_what_takes_it(there, capsys, wanted):
    line, taken = COMMANDS[wanted]
    for file in SAID.keys() - set(taken):
        status, out, err = command(capsys, line, file)
        assert (status, out) == (2, ""), file
        assert err.count("\n") == 1, file
        assert f"{file}: this is {SAID[file]}" in err, err
        assert err.endswith(f"; allowed: {wanted.partition(' to ')[0]}\n"), err
    assert not os.path.exists("new")
    assert not os.path.exists("new.toml")


@pytest.mark.parametrize("line", ["cpu show FILE", "replay FILE", "layout --boot-log FILE"])
def test_readers_of_dumps_traces_and_logs_name_files_that_are_ours(there, capsys, line):
    for file in OURS:
        if (line, file) == ("cpu show FILE", "cpu.toml"):
            continue
        status, out, err = command(capsys, line, file)
        assert (status, out) == (2, ""), file
        assert f" is {SAID[file]}" in err, err


@pytest.mark.parametrize("file", ["boot.log", "registers.txt", "rt-app.json", "result"])
def test_what_another_command_takes_is_no_trace_and_is_named(there, capsys, file):
    status, out, err = command(capsys, "replay FILE", file)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"{file}: this is {SAID[file]}" in err


WRONG = {
    "a scenario": ("show FILE", SCENARIO.replace("cpus = 1", "cpus = 0"), "host.cpus"),
    "a scenario with an unknown key of a carried state": (
        "show FILE", 'size_bytes = 24\n' + SCENARIO, "unknown key 'size_bytes'",
    ),
    "a carried state": (
        "flow halt --carried FILE",
        shipped("carried.toml").replace("size_bytes = 24", 'size_bytes = "many"'),
        "size_bytes: ",
    ),
    "a strategy": (
        "flow halt --strategy FILE",
        shipped("strategy.toml").replace('mechanism = "', 'mechanism = "m'),
        "mechanism = 'm",
    ),
    "a cost table": ("costs show FILE", 'derived_from = "zen44"\n', "'title' is missing"),
    "a CPU profile": ("cpu show FILE", "[cpuid.1]\nten = 1\n", "title: the key is missing"),
    "a file of no kind": ("show FILE", "name = 1\n", "unknown key 'name'"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_file_of_the_kind_that_was_wanted_keeps_its_error(tmp_path, capsys, monkeypatch, what):
    line, text, error = WRONG[what]
    file = tmp_path / "file.toml"
    file.write_text(text)
    status, _, err = command(capsys, line, file)
    assert status == 2
    assert error in err
    assert "this is" not in err
    monkeypatch.setattr(kinds, "told", lambda text: None)
    assert command(capsys, line, file) == (2, "", err)


def test_what_a_scenario_names_is_told_as_the_file_that_it_is(there, capsys, tmp_path):
    file = tmp_path / "names.toml"
    file.write_text(SCENARIO + f'\n[kernel]\ncarried = "{os.path.abspath("strategy.toml")}"\n')
    status, _, err = run(capsys, "show", file)
    assert (status, err.count("\n")) == (2, 1)
    assert f"strategy.toml: this is {SAID['strategy.toml']}; allowed: a carried state" in err


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [
        ("kernel/data/carried/*.toml", kinds.Kind.CARRIED),
        ("kernel/data/strategies/*.toml", kinds.Kind.STRATEGY),
        ("costs/tables/*.toml", kinds.Kind.COSTS),
        ("xsave/cpus/*.toml", kinds.Kind.PROFILE),
        ("../scenarios/*.toml", kinds.Kind.SCENARIO),
    ],
)
def test_each_shipped_file_is_of_its_kind(pattern, kind):
    files = sorted(PACKAGE.glob(pattern))
    assert files
    assert {file.name: kinds.told(file.read_text()) for file in files} == {file.name: kind for file in files}


@pytest.mark.parametrize("name", ["a\nb.toml", "a\x1bb.toml"])
def test_a_name_that_cannot_be_printed_is_quoted(tmp_path, capsys, name):
    (tmp_path / name).write_text('mechanism = "msr"\n')
    status, _, err = run(capsys, "show", tmp_path / name)
    assert (status, err.count("\n")) == (2, 1)
    assert repr(name)[1:-1] in err
    assert "this is a strategy" in err


def test_a_pipe_is_read_once(tmp_path, capsys):
    read, write = os.pipe()
    os.write(write, b'mechanism = "msr"\n')
    os.close(write)
    status, _, err = run(capsys, "show", f"/dev/fd/{read}")
    os.close(read)
    assert status == 2
    assert "unknown key 'mechanism'" in err
