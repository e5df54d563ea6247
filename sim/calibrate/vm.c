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
#include "kvm.h"
#include "order.h"
#include "round_trips.h"

#define ROWS_MAX 128
#define CODE_AT 0x1000
#define MEMORY 0x10000

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

struct row {
	uint64_t guest, vmm;
	unsigned int cpuids;
	uint8_t *guest_image, *vmm_image;
};

static uint64_t rfbm, timer;
static uint8_t *initial;

static void make_vm(uint64_t slower)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1 };
	uint8_t *memory = pages(MEMORY);

	memcpy(memory + CODE_AT, code, sizeof(code));
	make_vcpu(memory, MEMORY);
	refuse_interpreted(memory, timer, slower);
	xcrs.xcrs[0].value = rfbm;
	if (ioctl(vcpu, KVM_SET_XCRS, &xcrs))
		unavailable("KVM_SET_XCRS");
}

static void round_trip(void)
{
	expect_io();
}

/* To where the rows begin: the OUT of the adds is completed by the next KVM_RUN. */
static void begin_rows(void)
{
	struct kvm_regs regs = { .rip = CODE_AT, .rflags = 2 };

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
	make_vm(strtoull(argv[3], NULL, 10));
	begin_rows();
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
