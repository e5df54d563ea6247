/*
 * A virtual machine of one vCPU: Linux Documentation/virt/kvm/api.rst, whose order of ioctls this follows.
 *
 * Exit status 3 of what includes this: no virtual machine can be made here, or it is no measure of VMX or SVM; the reason
 * is one line on standard error.
 */
#ifndef KVM_H
#define KVM_H

#include "timing.h"
#include "state.h"
#include "syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#define UNAVAILABLE 3
#define CPUID_ENTRIES 256
#define ADDS 20000		/* many times the exit that ends them, where an add takes a cycle */
#define ADDS_IN_A_LOOP 10
#define ADDS_AT 0x2000
#define RUNS 5

/* EDI times 10 dependent adds, as adds() in timing.h, and the OUT. */
static const uint8_t adds_code[] = {
	0x66, 0x85, 0xff,	/* 0: test edi, edi */
	0x74, 0x22,		/* jz 0x27 */
	0x66, 0x01, 0xd0,	/* 5: add eax, edx, 10 times */
	0x66, 0x01, 0xd0, 0x66, 0x01, 0xd0, 0x66, 0x01, 0xd0,
	0x66, 0x01, 0xd0, 0x66, 0x01, 0xd0, 0x66, 0x01, 0xd0,
	0x66, 0x01, 0xd0, 0x66, 0x01, 0xd0, 0x66, 0x01, 0xd0,
	0x66, 0x4f,		/* 0x23: dec edi */
	0x75, 0xde,		/* jnz 5 */
	0xe6, 0x10,		/* 0x27: out 0x10, al */
};

static int kvm, vm, vcpu;
static struct kvm_run *vcpu_run;

static inline __attribute__((noreturn)) void unavailable(const char *what)
{
	perror(what);
	exit(UNAVAILABLE);
}

/* The vCPU, with `bytes` of `memory` at guest-physical address 0, and CPUID as KVM offers it. */
static inline void make_vcpu(void *memory, size_t bytes)
{
	struct kvm_userspace_memory_region region = { .memory_size = bytes, .userspace_addr = (uintptr_t)memory };
	struct kvm_cpuid2 *cpuid;
	int size;

	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		unavailable("/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		unavailable("KVM_CREATE_VM");
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		unavailable("KVM_SET_USER_MEMORY_REGION");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vcpu < 0 || size < 0)
		unavailable("KVM_CREATE_VCPU");
	vcpu_run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	cpuid = calloc(1, sizeof(*cpuid) + CPUID_ENTRIES * sizeof(cpuid->entries[0]));
	if (vcpu_run == MAP_FAILED || !cpuid)
		unavailable("mmap");
	cpuid->nent = CPUID_ENTRIES;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid) || ioctl(vcpu, KVM_SET_CPUID2, cpuid))
		unavailable("KVM_SET_CPUID2");
	free(cpuid);
}

/* KVM_RUN up to the next exit to user space, and its reason. */
static inline uint32_t run_vcpu(void)
{
	long error;

	do
		error = raw_syscall(SYS_ioctl, vcpu, KVM_RUN, 0);
	while (error == -EINTR);
	if (error) {
		errno = -error;
		unavailable("KVM_RUN");
	}
	return vcpu_run->exit_reason;
}

static inline void expect_io(void)
{
	if (run_vcpu() != KVM_EXIT_IO) {
		fprintf(stderr, "KVM_RUN: exit reason %u in place of %u (I/O)\n", vcpu_run->exit_reason, KVM_EXIT_IO);
		exit(UNAVAILABLE);
	}
}

/* TSC cycles of the shortest of some runs of so many adds in the guest, with the exit that ends them. */
static inline uint64_t guest_adds(uint32_t count)
{
	struct kvm_regs regs = { .rip = ADDS_AT, .rflags = 2, .rdx = 1, .rdi = count / ADDS_IN_A_LOOP };
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < RUNS; i++) {
		uint64_t aux, begin, taken;

		if (ioctl(vcpu, KVM_SET_REGS, &regs))
			die("KVM_SET_REGS");
		begin = tsc_begin();
		expect_io();
		taken = tsc_end(&aux) - begin;
		if (taken < least)
			least = taken;
	}
	return least;
}

/*
 * Runs dependent adds in real mode, and refuses to go on where one takes more than `slower` times as long as outside: then
 * the guest is interpreted and not run by VMX or SVM, and nothing in it is a measure of theirs.  Leaves the vCPU in real mode
 * with a code segment at 0, after an OUT.
 */
static inline void refuse_interpreted(uint8_t *memory, uint64_t timer, uint64_t slower)
{
	uint64_t none, some, inside, outside = UINT64_MAX;
	struct kvm_sregs sregs;

	memcpy(memory + ADDS_AT, adds_code, sizeof(adds_code));
	if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
		unavailable("KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs))
		unavailable("KVM_SET_SREGS");
	none = guest_adds(0);
	some = guest_adds(ADDS);
	inside = some > none ? some - none : 0;
	for (int i = 0; i < RUNS; i++) {
		uint64_t taken = chain(timer);

		if (taken < outside)
			outside = taken;
	}
	if (inside * CHAIN_ADDS > slower * outside * ADDS) {
		fprintf(stderr, "KVM interprets its guests here: an add takes %llu TSC cycles in a guest, %llu times as long as "
			"outside, so a round trip is not one of VMX or SVM\n", (unsigned long long)(inside / ADDS),
			(unsigned long long)(inside * CHAIN_ADDS / (outside * ADDS)));
		exit(UNAVAILABLE);
	}
}

#endif
