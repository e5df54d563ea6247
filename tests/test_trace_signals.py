"""Signals whose own events are recorded are facts: explained, not inferred, and wrong orders are contradictions."""

import gzip
import random
from pathlib import Path

import pytest
from command import run, run_json
from test_trace_rules import inferred, known, rules, settled

from sim.trace.following import machine
from sim.trace.following.follow import Follower
from sim.trace.reading.chunks import steps
from sim.trace.reading.events import CODE, RECORD
from sim.trace.reading.reader import Reader

SAMPLE = Path(__file__).parent / "data" / "traces" / "signals" / "vcpu-halt-signals.txt.gz"
HANDLER, SIG_DFL, SIG_IGN = 0x401000, 0, 1
USR1, SEGV = 10, 11


def delivered(story, who="A", signal=USR1, handler=HANDLER):
    return story.event(0, who, "signal_deliver", signal, handler)


def returned(story, who="A"):
    return story.event(0, who, "sys_enter_rt_sigreturn", "")


def marked(story, who="A"):
    return story.restores(who, load=0)


def both_seen():
    """One signal of A, from its delivery to sigreturn."""
    return marked(returned(marked(delivered(known()))))


def test_every_signal_of_the_sample_is_explained_and_next_to_nothing_inferred(capsys):
    document = run_json(capsys, "replay", str(SAMPLE), "--check")
    assert document["by_kind"]["explained"]["signal"] == 976
    assert document["inferred"] < 0.005 * document["events"]
    assert document["unexplained"] == []


def test_delivery_and_sigreturn_are_facts():
    verdict = settled(both_seen()).verdict()
    assert verdict.contradictions == []
    assert verdict.inferred.total() == 0
    assert verdict.explained["signal"] == 2


def test_without_their_events_they_are_inferred():
    assert inferred(marked(marked(known()))) == {"signal": 2}


def test_with_one_of_the_two_events_alone_the_other_is_inferred():
    assert inferred(marked(marked(delivered(known())))) == {"signal": 1}


def test_registers_that_are_marked_without_a_signal_contradict_once_both_events_are_recorded():
    assert rules(marked(both_seen())) == ["signal"]


def test_a_signal_whose_registers_are_not_marked_contradicts_at_what_comes_after_it():
    assert rules(returned(delivered(both_seen())))[0] == "signal"
    assert rules(delivered(delivered(both_seen())))[0] == "signal"
    assert rules(delivered(both_seen()).loads("A")) == ["signal"]


def test_an_order_that_is_exchanged_contradicts():
    assert "signal" in rules(marked(returned(marked(delivered(marked(both_seen()))))))


def test_neither_happens_inside_kvm_run():
    assert rules(delivered(both_seen().loads("A")))[0] == "signal"
    assert rules(returned(both_seen().loads("A")))[0] == "signal"


@pytest.mark.parametrize("handler", [SIG_DFL, SIG_IGN])
def test_a_signal_without_a_handler_passes_nothing(handler):
    assert rules(delivered(both_seen(), handler=handler)) == []
    assert rules(delivered(both_seen(), handler=handler).loads("A")) == []


def test_a_frame_that_cannot_be_set_up_ends_in_sigsegv():
    assert rules(marked(delivered(delivered(both_seen()), signal=SEGV))) == []


def test_a_preemption_may_lie_between_a_signal_and_its_mark():
    story = delivered(both_seen()).switch("B").saves("A").restores("B")
    assert rules(marked(story.switch("A").saves("B").restores("A"))) == []


def test_a_handler_that_began_before_the_recording_returns():
    assert rules(marked(returned(known()))) == []


def test_the_recording_command_asks_for_them():
    for event in ("signal:signal_deliver", "syscalls:sys_enter_rt_sigreturn"):
        assert f"-e {event} " in RECORD


def found(events, config):
    follower = Follower(config)
    for step in events:
        follower.follow(step)
    follower.finish()
    return follower.verdict.found


def test_an_event_of_a_signal_that_is_deleted_contradicts():
    with SAMPLE.open("rb") as stream:
        reader = Reader(stream, SAMPLE.name)
        events = [step for chunk in reader.chunks() for step in steps(chunk, reader.names)][:6000]
    head = machine.header(reader.comments, SAMPLE.name)
    masks, _ = machine.masks(head, {step.values[3] for step in events if step.event == CODE["x86_fpu_regs_activated"]})
    config = machine.config(masks, head, "v6.18")
    assert found(events, config) == 0
    kinds = (CODE["signal_deliver"], CODE["sys_enter_rt_sigreturn"])
    places = [i for i, step in enumerate(events[200:5500], 200) if step.event in kinds]
    rng = random.Random(1)
    for i in rng.sample(places, 8):
        assert found([*events[:i], *events[i + 1 :]], config) >= 1, events[i]
        mark = next(
            j for j in range(i + 1, len(events))
            if events[j].event == CODE["x86_fpu_regs_activated"] and events[j].tid == events[i].tid
        )  # fmt: skip
        assert found([*events[:mark], *events[mark + 1 :]], config) >= 1, events[mark]


def test_a_delivery_without_its_fields_is_unread_and_said(tmp_path, capsys):
    text = gzip.decompress(SAMPLE.read_bytes()).decode().replace(" sa_handler=5636184039c0", "", 1)
    (tmp_path / "trace.txt").write_text(text)
    _, out, _ = run(capsys, "replay", str(tmp_path / "trace.txt"), "--check")
    assert "1 line is not an event" in out
