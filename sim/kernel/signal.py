"""Signal delivery, sigreturn and ptrace: the paths that use XSAVE and XRSTOR on user memory.

Source: arch/x86/kernel/fpu/signal.c copy_fpstate_to_sigframe(), fpu__restore_sig(); arch/x86/kernel/fpu/core.c
fpu__clear_user_states(), fpu_sync_fpstate(); arch/x86/kernel/signal.c get_sigframe(); Linux v6.19, 64-bit frames.
"""

from sim.kernel import fpu
from sim.kernel.kernel import Kernel
from sim.kernel.operations import PTRACE, RDPKRU, SIGNAL, WRPKRU, XGETBV1, XRSTOR, XSAVE
from sim.kernel.state import PKRU_DEFAULT, Cpu, SignalFrame, Task
from sim.kernel.xstate import os_xrstor
from sim.xsave.area import INIT
from sim.xsave.components import MXCSR_INIT, PKRU, SSE, SUPERVISOR, USER, XTILE, bits


def deliver(k: Kernel, cpu: Cpu) -> None:
    """A signal is delivered to the current task on its way to user mode; the handler starts with initial registers.

    Never inside KVM_RUN, which returns -EINTR first.
    """
    task, unit = cpu.current, cpu.unit
    context, pkru = task.context, unit.pkru
    if k.version.signal_opens_pkru and k.pku:  # the write to the signal stack cannot fail on a protection key
        cpu.record((task.kind, SIGNAL, RDPKRU))  # read_pkru(), and again in write_pkru()
        cpu.record((task.kind, SIGNAL, RDPKRU))
        if pkru:
            cpu.record((task.kind, SIGNAL, WRPKRU))
            unit.write_pkru(0)
    if task.need_fpu_load:
        fpu.fpregs_restore_userregs(k, cpu, SIGNAL)
    frame = k.new_area()
    features = mask = task.fpstate.user_xfeatures
    if k.xfd_features:
        cpu.record((task.kind, SIGNAL, XGETBV1))
        mask &= unit.xgetbv1() | ~XTILE
    written = unit.xsave(frame, mask)
    cpu.record((task.kind, SIGNAL, XSAVE, mask & unit.xcr0, written))
    if k.integrity and unit.regs != context.regs:
        k.integrity.saved(cpu, context, written, "signal frame")
    if k.version.signal_opens_pkru and k.pku:  # update_pkru_in_sigframe()
        frame.pkru = pkru
        frame.xstate_bv |= PKRU
    frame.xstate_bv |= 3
    # save_sw_bytes() notes all of user_xfeatures, also what was left out because it is initial.
    task.frames.append(SignalFrame(frame, features, list(context.regs), context.mxcsr, pkru))
    _clear_user_states(k, cpu, task)


def _clear_user_states(k: Kernel, cpu: Cpu, task: Task) -> None:
    """fpu__clear_user_states(): XRSTOR_INFO names init_fpstate afterwards, so the next save has no match.

    Its os_xrstor_supervisor() for registers that are not valid is not needed here: :func:`deliver` is one step, which
    has made them valid, and nothing preempts it.
    """
    unit = cpu.unit
    if k.version.clear_user_states_updates_xfd:
        fpu.xfd_update_state(k, cpu, task.fpstate, SIGNAL)
    os_xrstor(k, cpu, k.init_area, k.restore_mask & USER, SIGNAL)
    context = task.context
    for i in bits[k.restore_mask & USER]:
        context.regs[i] = INIT
    context.mxcsr = MXCSR_INIT
    if k.pku:
        cpu.record((task.kind, SIGNAL, WRPKRU))
        unit.write_pkru(PKRU_DEFAULT)
        context.pkru = PKRU_DEFAULT
    fpu.fpregs_activate(k, cpu, task)
    task.last_cpu = cpu.id
    task.need_fpu_load = False


def sigreturn(k: Kernel, cpu: Cpu) -> None:
    """The handler returns: XRSTOR from user memory, then init for what the frame lacks."""
    task, unit = cpu.current, cpu.unit
    frame = task.frames.pop()
    fpu.xfd_update_state(k, cpu, task.fpstate, SIGNAL)
    features = task.fpstate.user_xfeatures
    mask = frame.features & features
    loaded = unit.xrstor(frame.area, mask)
    rfbm = mask & unit.xcr0
    cpu.record((task.kind, SIGNAL, XRSTOR, rfbm, loaded, rfbm & ~loaded))
    left_out = features & ~mask
    if left_out:
        os_xrstor(k, cpu, k.init_area, left_out, SIGNAL)
    if task.need_fpu_load and k.restore_mask & SUPERVISOR:
        os_xrstor(k, cpu, task.fpstate.area, k.restore_mask & SUPERVISOR, SIGNAL)
    context = task.context
    for i in bits[features & ~PKRU]:
        context.regs[i] = frame.regs[i]
    context.mxcsr = frame.mxcsr
    context.pkru = frame.pkru
    fpu.fpregs_activate(k, cpu, task)
    task.last_cpu = cpu.id
    task.need_fpu_load = False


def fpu_sync_fpstate(k: Kernel, cpu: Cpu) -> None:
    """Ptrace reads and core dumps of the current task."""
    task = cpu.current
    if k.tracing:
        k.trace_fpu(cpu, "before_save", task)
    if not task.need_fpu_load:
        fpu.save_fpregs_to_fpstate(k, cpu, task.fpstate, PTRACE)
    if k.tracing:
        k.trace_fpu(cpu, "after_save", task)


def ptrace_write(k: Kernel, task: Task, components: int) -> None:
    """Another task writes the registers of ``task``, which is off the CPU, in memory; resetting last_cpu makes it load
    them."""
    token = task.context.token()
    area = task.fpstate.area
    components &= task.fpstate.user_xfeatures & ~PKRU
    for i in bits[components]:
        area.compacted[i] = token
    if components & SSE & ~area.xstate_bv:
        area.mxcsr = MXCSR_INIT  # what the debugger read for initial SSE, and writes back; memory has an old one
    area.xstate_bv |= components
    task.context.written_in_memory(components, token)
    task.last_cpu = -1
