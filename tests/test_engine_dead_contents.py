"""What an XSAVE area has of components that no restore of it loads is no part of a state in the engine's tables."""

import engine_mode  # first of all: the loop as plain Python  # noqa: F401
import pytest
from hosts import RICH, changed, from_text
from hypothesis import example, given
from hypothesis import strategies as st

from sim.engine import fragments, reading, simulation, table
from sim.engine.fragments import DEAD, Unsupported
from sim.engine.transitions import Transitions
from sim.kernel.config import Settings, boot
from sim.xsave.area import INIT, Area
from sim.xsave.components import AVX, CET_S, COMPACTED, PKRU, SSE, ZMM_HI256, bits
from sim.xsave.freedoms import Freedoms
from sim.xsave.unit import Unit

USER_PART = SSE | AVX | ZMM_HI256
ENABLED = USER_PART | PKRU | CET_S
MASKS = st.sampled_from([ENABLED, SSE, AVX, SSE | AVX, ZMM_HI256, ENABLED & ~CET_S, CET_S])
DOES = st.tuples(
    st.sampled_from(["xsaves", "xrstors", "xsaveopt", "xrstor", "xsave", "xsavec", "touch", "initialise", "exec"]),
    MASKS, st.integers(0, 1), st.integers(1, 99),
)  # fmt: skip
FREEDOMS = st.builds(
    Freedoms,
    init_optimisation=st.booleans(),
    modified_optimisation=st.booleans(),
    xinuse_always=st.sampled_from([0, SSE, AVX]),
    loading_initial_values_sets_xinuse=st.booleans(),
    mxcsr_apart_from_xmm=st.booleans(),
    zmm_write_group=st.sampled_from([0, USER_PART]),
    restore_group=st.sampled_from([0, USER_PART]),
    legacy_sse_write_marks_avx_in_use=st.booleans(),
)


class OfCpu:
    """As much of a kernel as says which processor it runs on."""

    def __init__(self, freedoms):
        self.config = self.cpu = self
        self.freedoms = freedoms


@pytest.fixture(autouse=True)
def _new_tables(monkeypatch):
    """Nothing has been asked yet."""
    monkeypatch.setattr(table, "_tables", {})


def simulated(*, integrity=True):
    """The records of a host with everything in it."""
    case = changed(from_text(RICH)[0], measure=1e-3, warmup=0.0, integrity=integrity)
    return simulation.simulate(case, "xstate-guest", (), 0)


def seen(unit, areas):
    """All of a processor, and of areas what XSTATE_BV says is there."""
    return (
        [unit.regs, unit.xinuse, unit.xmodified, unit.info_address, unit.info_xcomp_bv, unit.mxcsr, unit.pkru],
        [(each.xstate_bv, each.xcomp_bv, [each.compacted[i] for i in bits[each.xstate_bv]]) for each in areas],
    )


def does(unit, areas, what, mask, number, content):
    """One instruction, or the kernel's write to a header; areas of either format are apart, as Linux's are."""
    area = areas[number if what in ("xsaves", "xrstors", "xsavec", "exec") else 2 + number]
    if what == "touch":
        unit.touch(mask & ~PKRU, content)
    elif what == "initialise":
        unit.initialise(mask & ~PKRU)
    elif what == "exec":  # fpu_flush_thread(): the next instruction on this area is a restore
        area.xstate_bv = 0
        unit.xrstors(area, ENABLED)
    else:
        getattr(unit, what)(area, mask)


@example(
    Freedoms(legacy_sse_write_marks_avx_in_use=True),
    [("touch", ZMM_HI256, 0, 1), ("xrstors", AVX, 0, 1), ("touch", SSE, 0, 2), ("xsaves", ENABLED, 0, 1)],
)
@given(FREEDOMS, st.lists(DOES, max_size=12))
def test_no_instruction_reads_a_content_that_is_no_part_of_a_state(freedoms, steps):
    worlds = []
    for _ in range(2):
        areas = [Area(64 * (i + 1), ENABLED | COMPACTED if i < 2 else 0) for i in range(4)]
        worlds.append((Unit(ENABLED & ~CET_S, CET_S, freedoms), areas))
    (unit, areas), (other, scrambled) = worlds
    for step in steps:
        for area in scrambled:
            there = fragments.contents_of(OfCpu(freedoms), area, 0)
            area.compacted[:] = [each if i in there else DEAD for i, each in enumerate(area.compacted)]
        does(unit, areas, *step)
        does(other, scrambled, *step)
        assert seen(other, scrambled) == seen(unit, areas)


def test_fragments_that_differ_in_what_is_not_there_are_one():
    case = from_text(RICH)[0]
    model = Transitions(boot(case.settings("xstate-guest")), integrity=True)
    task = model.kernel.new_task("", "user")
    entity = fragments.Entity(task, None)
    fresh = fragments.write_fragment(model.kernel, entity, -1)
    task.fpstate.area.compacted[1] = task.context.token()
    assert fragments.write_fragment(model.kernel, entity, -1) == fresh
    task.fpstate.area.xstate_bv = SSE
    assert fragments.write_fragment(model.kernel, entity, -1) != fresh


@pytest.mark.parametrize("lacking", [SSE, AVX])
@pytest.mark.parametrize(("integrity", "what"), [(True, "looked at"), (False, "restored")])
def test_a_state_without_a_content_that_is_there_is_refused(monkeypatch, lacking, integrity, what):
    def fewer(k, area, left_out):
        return bits[area.xstate_bv & ~lacking & ~left_out]

    for module in (fragments, reading):
        monkeypatch.setattr(module, "contents_of", fewer)
    with pytest.raises(Unsupported, match=f"an XSAVE area of which a component is {what} that no restore loads"):
        simulated(integrity=integrity)


def test_a_restore_that_loads_what_is_not_there_is_refused(monkeypatch):
    restore = Unit._restore

    def loads_all(unit, area, contents, rfbm, xcomp_bv):
        loaded = restore(unit, area, contents, rfbm, xcomp_bv)
        for i in bits[rfbm & ~loaded & AVX]:
            unit.regs[i] = contents[i]
        return loaded

    monkeypatch.setattr(Unit, "_restore", loads_all)
    with pytest.raises(Unsupported, match="an XSAVE area of which a component is looked at"):
        simulated()


def test_what_nobody_can_tell_in_a_normal_fpstate_is_no_part_of_a_state():
    model = Transitions(boot(Settings(strategy="xstate-all-resident")), integrity=True)
    task = model.kernel.new_task("", "user")
    entity = fragments.Entity(task, None)
    task.fpstate.area.xstate_bv = SSE | CET_S
    found = set()
    for content in (INIT, (task.context.token(), 0, 0), DEAD):
        task.fpstate.area.compacted[CET_S.bit_length() - 1] = content
        found.add(fragments.write_fragment(model.kernel, entity, -1))
    assert len(found) == 1
    task.fpstate.is_guest = True
    with pytest.raises(Unsupported, match="restored"):
        fragments.write_fragment(model.kernel, entity, -1)


@pytest.mark.parametrize(
    ("strategy", "shadow_stacks", "lacking"),
    [
        ("xstate-all-resident", "off", CET_S),
        ("xstate-all-resident", "fpstate", 0),
        ("xstate-guest-resident", "off", CET_S),
        ("xstate-all", "off", 0),
        ("manual-load", "off", 0),
    ],
)
def test_only_what_restores_of_normal_fpstates_leave_out_is_left_out_of_them(strategy, shadow_stacks, lacking):
    config = boot(Settings(strategy=strategy, host_shadow_stacks=shadow_stacks))
    assert fragments.never_loaded(Transitions(config, integrity=True).kernel) == lacking


def test_a_restore_of_a_normal_fpstate_that_loads_what_nobody_could_tell_there_is_refused(monkeypatch):
    monkeypatch.setattr(fragments, "never_loaded", lambda k: SSE)
    monkeypatch.setattr(reading, "never_loaded", lambda k: SSE)
    case = changed(from_text(RICH)[0], measure=5e-3, warmup=0.0)
    with pytest.raises(Unsupported, match="an XSAVE area of which a component is"):
        simulation.simulate(case, "xstate-all-resident", (), 0)


def test_a_content_that_is_not_there_can_be_told_from_the_initial_one_only_by_looking_at_it():
    copied = [DEAD]
    assert copied[0] is DEAD
    with pytest.raises(Unsupported, match="looked at"):
        assert copied != [INIT]
    with pytest.raises(TypeError, match="unhashable"):
        hash(DEAD)
