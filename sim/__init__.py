"""fpswitch: what carrying FPU and CET state across vCPU context switches costs on x86 Linux/KVM."""
