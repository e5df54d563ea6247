/*
 * Times KVM_RUN round trips, with different state components in use by the guest and by the VMM.
 *
 *     vm CPU PASSES SLOWER < plan
 *
 * A line of the plan: the guest's in-use set, the VMM's (both hexadecimal), and how many CPUID instructions, each of which
 * exits to KVM and no further, the guest runs before the OUT that exits to user space.  The fpstate swap of a round trip is
 * an XSAVES of the VMM, an XRSTORS of the guest, and the reverse (Linux arch/x86/kernel/fpu/core.c,
 * fpu_swap_kvm_fpstate()); the guest's components come from KVM_SET_XSAVE, and the guest, in real mode, leaves them alone.
 *
 * Before the first row the guest runs dependent adds.  Where one takes more than SLOWER times as long as outside, the guest
 * is interpreted and not run by VMX or SVM, and its round trips are no measure of theirs.
 *
 * Exit status 3: no virtual machine can be made here, or it is interpreted; the reason is on standard error.
 */
#include "timing.h"
#include "state.h"
#include "order.h"
#include "round_trips.h"
#include "syscalls.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#define ROWS_MAX 128
#define CODE_AT 0x1000
#define ADDS_AT 0x2000
#define ADDS 20000		/* many times the exit that ends them, where an add takes a cycle */
#define ADDS_IN_A_LOOP 10
#define RUNS 5
#define MEMORY 0x10000
#define UNAVAILABLE 3
#define CPUID_ENTRIES 256

static const uint8_t code[] = {
	0x66, 0x89, 0xfe,	/* 0: mov esi, edi */
	0x66, 0x85, 0xf6,	/* 3: test esi, esi */
	0x74, 0x09,		/* jz 0x11 */
	0x66, 0x31, 0xc0,	/* xor eax, eax */
	0x0f, 0xa2,		/* cpuid */
	0x66, 0x4e,		/* dec esi */
	0xeb, 0xf2,		/* jmp 3 */
	0xe6, 0x10,		/* 0x11: out 0x10, al */
	0xeb, 0xeb,		/* jmp 0 */
};

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

struct row {
	uint64_t guest, vmm;
	unsigned int cpuids;
	uint8_t *guest_image, *vmm_image;
};

static uint64_t rfbm, timer;
static uint8_t *initial;
static int vcpu;
static struct kvm_run *shared;

static __attribute__((noreturn)) void unavailable(const char *what)
{
	perror(what);
	exit(UNAVAILABLE);
}

static void make_vm(void)
{
	struct kvm_userspace_memory_region region = { .memory_size = MEMORY };
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rip = CODE_AT, .rflags = 2 };
	struct kvm_xcrs xcrs = { .nr_xcrs = 1 };
	struct kvm_cpuid2 *cpuid;
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, size;
	uint8_t *memory = pages(MEMORY);

	if (kvm < 0)
		unavailable("/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		unavailable("KVM_CREATE_VM");
	memcpy(memory + CODE_AT, code, sizeof(code));
	memcpy(memory + ADDS_AT, adds_code, sizeof(adds_code));
	region.userspace_addr = (uintptr_t)memory;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		unavailable("KVM_SET_USER_MEMORY_REGION");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vcpu < 0 || size < 0)
		unavailable("KVM_CREATE_VCPU");
	shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	cpuid = calloc(1, sizeof(*cpuid) + CPUID_ENTRIES * sizeof(cpuid->entries[0]));
	if (shared == MAP_FAILED || !cpuid)
		unavailable("mmap");
	cpuid->nent = CPUID_ENTRIES;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid) || ioctl(vcpu, KVM_SET_CPUID2, cpuid))
		unavailable("KVM_SET_CPUID2");
	free(cpuid);
	if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
		unavailable("KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs))
		unavailable("KVM_SET_SREGS");
	xcrs.xcrs[0].value = rfbm;
	if (ioctl(vcpu, KVM_SET_XCRS, &xcrs))
		unavailable("KVM_SET_XCRS");
}

static void round_trip(void)
{
	if (raw_syscall(SYS_ioctl, vcpu, KVM_RUN, 0) || shared->exit_reason != KVM_EXIT_IO) {
		fprintf(stderr, "KVM_RUN: exit reason %u in place of %u (I/O)\n", shared->exit_reason, KVM_EXIT_IO);
		exit(UNAVAILABLE);
	}
}

/* TSC cycles of the shortest of some runs of so many adds in the guest, with the exit that ends them. */
static uint64_t guest_adds(uint32_t count)
{
	struct kvm_regs regs = { .rip = ADDS_AT, .rflags = 2, .rdx = 1, .rdi = count / ADDS_IN_A_LOOP };
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < RUNS; i++) {
		uint64_t aux, begin, taken;

		if (ioctl(vcpu, KVM_SET_REGS, &regs))
			die("KVM_SET_REGS");
		begin = tsc_begin();
		round_trip();
		taken = tsc_end(&aux) - begin;
		if (taken < least)
			least = taken;
	}
	return least;
}

static void refuse_interpreted(uint64_t slower)
{
	struct kvm_regs regs = { .rip = CODE_AT, .rflags = 2 };
	uint64_t none = guest_adds(0), some = guest_adds(ADDS), outside = UINT64_MAX;
	uint64_t inside = some > none ? some - none : 0;

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
	if (ioctl(vcpu, KVM_SET_REGS, &regs))
		die("KVM_SET_REGS");
	round_trip();
}

/* The guest's registers and components; the OUT of the last round trip is completed by the next KVM_RUN. */
static void set_guest(const struct row *row)
{
	struct kvm_regs regs;

	if (ioctl(vcpu, KVM_SET_XSAVE, row->guest_image) || ioctl(vcpu, KVM_GET_REGS, &regs))
		die("KVM_SET_XSAVE");
	regs.rdi = row->cpuids;
	if (ioctl(vcpu, KVM_SET_REGS, &regs))
		die("KVM_SET_REGS");
}

/* XSTATE_BV of what the guest holds. */
static uint64_t guest_in_use(void)
{
	static struct kvm_xsave xsave;
	uint64_t bits;

	if (ioctl(vcpu, KVM_GET_XSAVE, &xsave))
		die("KVM_GET_XSAVE");
	memcpy(&bits, (uint8_t *)&xsave + LEGACY_SIZE, sizeof(bits));
	return bits;
}

static void measure(const struct row *row, struct sample *sample)
{
	set_guest(row);
	xrstor(row->vmm_image, rfbm);
	time_round_trips(round_trip, timer, sample);
	clear_state(initial, rfbm);
	if (guest_in_use() != row->guest)
		sample->in_use = ~0ull;
}

int main(int argc, char **argv)
{
	size_t count = 0, order[ROWS_MAX];
	static struct row rows[ROWS_MAX];
	unsigned long long guest, vmm;
	unsigned int cpuids;

	if (argc != 4) {
		fprintf(stderr, "usage: vm CPU PASSES SLOWER\n");
		return 2;
	}
	pin(atoi(argv[1]));
	rfbm = components_init() & ~(XTILE_CFG | XTILE_DATA);	/* struct kvm_xsave has no room for tiles */
	timer = timer_cost();
	initial = pages(AREA_SIZE);
	image(initial, 0);
	make_vm();
	refuse_interpreted(strtoull(argv[3], NULL, 10));
	while (count < ROWS_MAX && scanf("%llx %llx %u", &guest, &vmm, &cpuids) == 3) {
		struct row *row = &rows[count];

		row->guest = guest & rfbm;
		row->vmm = vmm & rfbm;
		row->cpuids = cpuids;
		row->guest_image = pages(AREA_SIZE);
		row->vmm_image = pages(AREA_SIZE);
		image(row->guest_image, row->guest);
		image(row->vmm_image, row->vmm);
		order[count] = count;
		count++;
	}
	for (int pass = atoi(argv[2]); pass > 0; pass--) {
		shuffle(order, count);
		for (size_t i = 0; i < count; i++) {
			struct sample sample = { .row = order[i] };

			measure(&rows[order[i]], &sample);
			put(&sample);
		}
	}
	return fflush(stdout) ? 1 : 0;
}
