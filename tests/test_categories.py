"""Each operation has one category, and categories partition the cycles."""

from pathlib import Path

import numpy as np
import pytest

from sim.analysis import categories, metrics
from sim.errors import InputError
from sim.kernel import flows, operations, strategies
from sim.kernel.config import Settings

pytestmark = pytest.mark.usefixtures("few_draws")


# Categories.


def test_every_operation_of_the_vocabulary_has_exactly_one_category():
    phases = {operations.SWITCH, operations.VCPU_LOAD, operations.GUEST_ENTRY, operations.USER_RETURN}
    names = [
        value
        for name, value in vars(operations).items()
        if name.isupper() and isinstance(value, str) and (name not in _phase_names())
    ]
    assert {"XSAVES", "VM entry", "context switch", "IBPB"} <= set(names)
    for name in names:
        assert {categories.category(phase, name) for phase in phases} <= set(categories.CATEGORIES), name


def _phase_names():
    text = Path(operations.__file__).read_text(encoding="utf-8")
    between = text[text.index("# Phases") : text.index("class Operation")]
    return {line.split(":")[0] for line in between.splitlines() if ": Final" in line}


@pytest.mark.parametrize("cpu", ["sapphire-rapids", "zen4"])
def test_every_operation_that_the_kernel_model_makes_has_a_category(cpu):
    for strategy in strategies.names():
        settings = Settings(cpu=cpu, strategy=strategy, hypothetical=True)
        for flow in flows.FLOWS:
            for op in flows.run(flow, settings).operations:
                assert categories.category(op.phase, op.operation) in categories.CATEGORIES


def test_the_xss_phase_is_xss_and_the_carried_msrs_are_msr():
    assert categories.category(operations.XSS_PHASE, operations.WRMSR_XSS) == "XSS"
    for name in ("RDMSR(PL0_SSP)", "WRMSRNS(PL1_SSP)", "RDMSRLIST(3)", "VM-exit MSR store(PL0_SSP)", "WRMSR(LSTAR)"):
        assert categories.category(operations.VCPU_PUT, name) == "MSR"
    assert categories.category(operations.GUEST_ENTRY, operations.WRPKRU) == "virtualisation"
    assert categories.category(operations.SWITCH, operations.RDPKRU) == "FPU"
    assert categories.category(operations.MITIGATION, operations.WRMSR_SPEC_CTRL) == "virtualisation"
    with pytest.raises(InputError, match="unknown operation 'XSAVEZ'"):
        categories.category(operations.SWITCH, "XSAVEZ")


SPEC_CTRL = """
name = "spec-ctrl"
title = "IA32_SPEC_CTRL"
msrs = { SPEC_CTRL = 0x48 }
size_bytes = 8
per_task_msr = false
source = "a test"
"""


def test_an_msr_that_is_also_a_mitigation_is_the_strategys_own_where_a_strategy_carries_it(tmp_path):
    (tmp_path / "spec-ctrl.toml").write_text(SPEC_CTRL)
    carried = Settings(strategy="manual-exit", carried=str(tmp_path / "spec-ctrl.toml"))
    made = flows.run("in-kernel-exit", carried).operations
    own = [(op.phase, op.operation) for op in made if categories.category(op.phase, op.operation) == categories.MSR]
    assert own == [
        ("guest-exit", "RDMSR(SPEC_CTRL)"),
        ("guest-exit", "WRMSR(SPEC_CTRL)"),
        ("guest-entry", "WRMSR(SPEC_CTRL)"),
    ]
    assert ("mitigations", "RDMSR(SPEC_CTRL)") in [(op.phase, op.operation) for op in made]


def test_categories_partition_the_cycles_of_the_operations(results, comparison):
    wide = comparison.df_replications().pivot(
        index=["case", "strategy", "replication"], columns="metric", values="value"
    )
    split = wide[[f"cost_{name.lower()}" for name in categories.CATEGORIES]].sum(axis=1)
    assert np.allclose(split, wide["cost"], rtol=1e-12)
    assert np.allclose(wide["cost_without_xss"] + wide["cost_xss"], wide["cost"], rtol=1e-12)
    seconds = results.cases[0]["measure_s"] * results.cases[0]["vcpus"]
    cycles = results.ledger.groupby(["case", "strategy", "replication"])["cycles"].sum()
    assert np.allclose(wide["cost"] * seconds, cycles.reindex(wide.index), rtol=1e-12)
    raw = results.metrics.pivot(index=["case", "strategy", "replication"], columns="metric", values="value")
    wide = wide.loc[raw.index]
    assert np.allclose(wide["cost"] * seconds, raw["operations_cycles"], rtol=1e-12)
    assert np.allclose(wide[[f"time_{part}" for part in metrics.PARTS]].sum(axis=1), 100, rtol=1e-12)


def test_the_frame_of_categories_adds_up_to_the_cost(comparison):
    parts = comparison.df_categories().groupby(["case", "strategy"])["mean"].sum()
    costs = comparison.df_metrics().query("metric == 'cost'").set_index(["case", "strategy"])["mean"]
    assert parts.to_dict() == pytest.approx(costs.to_dict())


def test_shares_of_the_cpu_are_those_of_the_cost_with_and_without_xss(comparison):
    values = comparison.df_replications().pivot_table(
        index=["case", "strategy", "replication"], columns="metric", values="value"
    )
    for share, cost in (("cpu_share", "cost"), ("cpu_share_without_xss", "cost_without_xss")):
        assert np.allclose(values[share] * values["cost_xss"], values["cpu_share_xss"] * values[cost])
    assert (values["cpu_share_without_xss"] < values["cpu_share"]).all()


def test_operations_per_event_are_those_of_its_own_phases(results, comparison):
    wide = comparison.df_replications().pivot(
        index=["case", "strategy", "replication"], columns="metric", values="value"
    )
    raw = results.metrics.pivot(index=["case", "replication"], columns="metric", values="value")
    raw = raw.loc[wide.index.droplevel("strategy")].set_axis(wide.index)
    ledger = results.ledger
    for event, phases in (
        ("context_switch", ["switch", "vcpu-load", "vcpu-put", "return-to-user", "user-return-msrs"]),
        ("kvm_run", ["kvm-load-guest-fpu", "kvm-put-guest-fpu"]),
        ("vm_exit", ["guest-entry", "guest-exit", "xss", "vm-transition"]),
    ):
        names = zip(ledger["phase"], ledger["operation"], strict=True)
        counts = np.array([p in phases and bool(categories.instructions(p, name)) for p, name in names])
        by_hand = (
            ledger[counts].groupby(["case", "strategy", "replication"])["count"].sum() / raw[metrics.EVENTS[event]]
        )
        assert by_hand.min() > 0
        assert np.allclose(wide[f"operations_per_{event}"], by_hand.reindex(wide.index))
    # XSAVES, WRMSR(XFD) and XRSTORS per swap, and no more, however many exits and switches there are
    assert set(wide["operations_per_kvm_run"].xs("free-ssp", level="strategy")) == {6.0}
