"""PAUSE-loop exiting: how long a guest may spin before the CPU exits.

Source: arch/x86/kvm/x86.h __grow_ple_window(), __shrink_ple_window() and the defaults; vmx/vmx.c and svm/svm.c
grow_ple_window() (by handle_pause(), pause_interception()), shrink_ple_window() (by vcpu_load after having been
scheduled out); Linux v7.3 (7.3.4).
"""

from typing import Final, NamedTuple

VMX_WINDOW: Final = 4096
"""KVM_VMX_DEFAULT_PLE_WINDOW, in TSC cycles."""
SVM_WINDOW: Final = 3000
"""KVM_SVM_DEFAULT_PLE_WINDOW, in PAUSE instructions."""
MOST: Final = {"vmx": (1 << 32) - 1, "svm": (1 << 16) - 1}
"""KVM_VMX_DEFAULT_PLE_WINDOW_MAX and KVM_SVM_DEFAULT_PLE_WINDOW_MAX."""
PAUSE_CYCLES: Final = {"vmx": 1, "svm": 65}
"""TSC cycles in a unit of the window: on AMD those of a PAUSE (assumed; it differs between generations)."""


class PleParameters(NamedTuple):
    """Module parameters of kvm_intel or kvm_amd, in units of the window."""

    window: int
    grow: int
    shrink: int
    most: int


class PleWindow:
    """The window of one vCPU; ``value`` is in the unit of its vendor."""

    __slots__ = ("_of", "value")

    def __init__(self, parameters: PleParameters) -> None:
        self._of = parameters
        self.value = parameters.window

    def grow(self) -> None:
        """The guest has spun for the whole window."""
        base, modifier = self._of.window, self._of.grow
        if modifier < 1:
            self.value = base
            return
        self.value = min(self.value * modifier if modifier < base else self.value + modifier, self._of.most)

    def shrink(self) -> None:
        """The vCPU has been off its CPU."""
        base, modifier = self._of.window, self._of.shrink
        if modifier < 1:
            self.value = base
            return
        self.value = max(self.value // modifier if modifier < base else self.value - modifier, base)
