/*
 * Runs in a virtual machine that guest.c makes, at CPL 0 in 64-bit mode, with nothing else on the machine: times XSAVES,
 * XRSTORS, XGETBV, RDMSR, WRMSR and WRMSRNS there, and instructions that exit to KVM.
 *
 * It needs 64-bit mode, the first GiB mapped one to one, and memory of zeros beyond its image; all else it sets up itself.
 * It takes no interrupts.  So it also runs on a bare machine, which is how it is tested under emulators.
 *
 * Intel SDM vol. 1 section 13.2 (enumeration of XSAVE), 13.7 to 13.12 (XSAVE to XRSTORS, init and modified optimisation),
 * vol. 2 (RDMSR, WRMSR, WRMSRNS, XGETBV, XSETBV), vol. 3 sections 3.4.5 (segment descriptors), 6.14 (IDT in 64-bit mode),
 * 2.7 (CR4.PKE), 14.5 and 14.6 (XSAVE and CET), 27.1.3 (instructions that exit: CPUID, INVD, HLT, OUT, WRMSR), vol. 4 (MSRs).
 */
#include "timing.h"
#include "state.h"
#include "guest.h"

#define VECTORS 32
#define GATE_PRESENT_INTERRUPT 0x8e00
#define CODE_SELECTOR 8

#define CR0_MP (1ull << 1)
#define CR0_EM (1ull << 2)
#define CR0_TS (1ull << 3)
#define CR0_NE (1ull << 5)
#define CR4_OSFXSR (1ull << 9)
#define CR4_OSXMMEXCPT (1ull << 10)
#define CR4_OSXSAVE (1ull << 18)
#define CR4_PKE (1ull << 22)	/* without it RDPKRU and WRPKRU are #UD; pages of CPL 0 have no key */

#define MSR_U_CET 0x6a0
#define MSR_PL0_SSP 0x6a4
#define MSR_PL3_SSP 0x6a7
#define MSR_XSS 0xda0
#define CET_USER (1ull << 11)
#define CET_KERNEL (1ull << 12)
#define EXTENDED_AT 576
#define MARK 0x5a
#define SOME_SSP 0x1000		/* aligned, and never used: CR4.CET is clear */

static struct guest_shared *const shared = (struct guest_shared *)SHARED_AT;

static uint8_t area[AREA_SIZE] __attribute__((aligned(4096))), other[AREA_SIZE] __attribute__((aligned(4096)));
static uint8_t standard[AREA_SIZE] __attribute__((aligned(4096)));
static uint8_t stack[16384] __attribute__((aligned(16), used));
static uint64_t timer, xss_now;
static int has_protection_keys;

/* What the compiler may call. */
void *memset(void *to, int byte, size_t bytes)
{
	void *at = to;

	asm volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(byte) : "memory");
	return to;
}

void *memcpy(void *to, const void *from, size_t bytes)
{
	void *at = to;

	asm volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(bytes) : : "memory");
	return to;
}

/* Exceptions.  A row runs in attempt(), to which the handlers return with the vector plus 1. */

static uint64_t attempt_stack __attribute__((used));

uint64_t attempt(void (*what)(size_t), size_t row);
extern char handlers[], handlers_end[];

asm(
"attempt:\n"
"	push	%rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
"	mov	%rsp, attempt_stack\n"
"	mov	%rdi, %rax\n"
"	mov	%rsi, %rdi\n"
"	sub	$8, %rsp\n"
"	call	*%rax\n"
"	add	$8, %rsp\n"
"	xor	%eax, %eax\n"
"1:	movq	$0, attempt_stack\n"
"	pop	%r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
"	ret\n"
"fault:\n"			/* the frame of the exception is dropped: there is nothing to return to */
"	cmpq	$0, attempt_stack\n"
"	je	2f\n"
"	mov	attempt_stack, %rsp\n"
"	inc	%eax\n"
"	jmp	1b\n"
"2:	out	%al, $0x84\n"	/* PORT_FAULT */
"3:	hlt\n"
"	jmp	3b\n"
"	.balign	16\n"
"handlers:\n"
"	.set	vector, 0\n"
"	.rept	32\n"		/* VECTORS */
"	.balign	16\n"
"	mov	$vector, %eax\n"
"	jmp	fault\n"
"	.set	vector, vector + 1\n"
"	.endr\n"
"	.balign	16\n"
"handlers_end:\n"
);

struct gate {
	uint16_t offset_low, selector, type, offset_middle;
	uint32_t offset_high, reserved;
};

static struct gate gates[VECTORS];
static const uint64_t segments[] = { 0, 0x00af9b000000ffff, 0x00cf93000000ffff };	/* none, 64-bit code, data */

struct __attribute__((packed)) table {
	uint16_t limit;
	uint64_t base;
};

static void set_descriptor_tables(void)
{
	struct table gdt = { sizeof(segments) - 1, (uintptr_t)segments }, idt = { sizeof(gates) - 1, (uintptr_t)gates };

	for (int i = 0; i < VECTORS; i++) {
		uint64_t at = (uintptr_t)handlers + i * (uint64_t)(handlers_end - handlers) / VECTORS;

		gates[i] = (struct gate){ at, CODE_SELECTOR, GATE_PRESENT_INTERRUPT, at >> 16, at >> 32, 0 };
	}
	asm volatile("lgdt %0; lidt %1" : : "m"(gdt), "m"(idt));
}

/* Privileged instructions. */

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t low, high;

	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
	asm volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline void xsetbv(uint64_t value)
{
	asm volatile("xsetbv" : : "c"(0), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

static inline void xsaves(void *to, uint64_t rfbm)
{
	asm volatile("xsaves64 (%0)" : : "r"(to), "a"((uint32_t)rfbm), "d"((uint32_t)(rfbm >> 32)) : "memory");
}

static inline void xrstors(const void *from, uint64_t rfbm)
{
	asm volatile("xrstors64 (%0)" : : "r"(from), "a"((uint32_t)rfbm), "d"((uint32_t)(rfbm >> 32)) : "memory");
}

static inline uint64_t xstate_bv(const uint8_t *of)
{
	uint64_t bits;

	memcpy(&bits, of + LEGACY_SIZE, sizeof(bits));
	return bits;
}

static void ask_cpuid(struct guest_about *about)
{
	uint32_t a, b, c, d, most;

	__cpuid(0, most, b, c, d);
	if (most < LEAF_XSTATE)
		return;
	__cpuid_count(7, 0, a, b, c, d);
	about->shadow_stacks = c >> 7 & 1;
	has_protection_keys = c >> 3 & 1;
	__cpuid_count(LEAF_XSTATE, 0, a, b, c, d);
	about->xcr0 = (uint64_t)d << 32 | a;
	__cpuid_count(LEAF_XSTATE, 1, a, b, c, d);
	about->xsaves = a >> 3 & 1;
	about->xss = about->xsaves ? (uint64_t)d << 32 | c : 0;
	for (int i = 2; i < 63; i++) {
		if (!(about->xcr0 >> i & 1))
			continue;
		__cpuid_count(LEAF_XSTATE, i, a, b, c, d);
		if (i >= COMPONENTS || a + b > AREA_SIZE) {
			about->xcr0 &= ~(1ull << i);
			continue;
		}
		size_of[i] = a;
		offset_of[i] = b;
	}
}

static void set_up(void)
{
	uint64_t cr;

	set_descriptor_tables();
	size_of[0] = 160;
	size_of[1] = 256;
	offset_of[1] = 160;
	ask_cpuid(&shared->about);
	asm volatile("mov %%cr0, %0" : "=r"(cr));
	asm volatile("mov %0, %%cr0" : : "r"((cr & ~(CR0_EM | CR0_TS)) | CR0_MP | CR0_NE));
	asm volatile("mov %%cr4, %0" : "=r"(cr));
	cr |= CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | (has_protection_keys ? CR4_PKE : 0);
	asm volatile("mov %0, %%cr4" : : "r"(cr));
	xsetbv(shared->about.xcr0);
	asm volatile("fninit");
	timer = timer_cost();
}

/* Two areas in the compacted format with the row's components in use: as XSAVES writes them. */
static void make_areas(const struct guest_row *row)
{
	image(standard, row->in_use & shared->about.xcr0);
	xrstor(standard, shared->about.xcr0);
	if (row->xss & CET_USER) {
		wrmsr(MSR_U_CET, 0);	/* AMD reserves what is not about shadow stacks, and those stay off */
		wrmsr(MSR_PL3_SSP, row->in_use & CET_USER ? SOME_SSP : 0);
	}
	if (row->xss & CET_KERNEL)
		for (int level = 0; level < 3; level++)
			wrmsr(MSR_PL0_SSP + level, row->in_use & CET_KERNEL ? SOME_SSP : 0);
	memset(area, 0, AREA_SIZE);
	memset(other, 0, AREA_SIZE);
	xsaves(area, row->requested);
	xsaves(other, row->requested);
}

/* One repetition.  Inlined, with a constant operation, so that nothing but the instruction and its operands is timed. */
static inline __attribute__((always_inline))
void once(enum operation operation, const struct guest_row *row, const uint64_t *values, int i)
{
	uint32_t a = 0, b, c = 0, d, msr = row->msr;
	uint64_t value = values[i & 1];

	switch (operation) {
	case XSAVES:
		xsaves(area, row->requested);
		break;
	case XRSTORS:
		xrstors(i & 1 && !row->same ? other : area, row->requested);
		break;
	case XGETBV0:
	case XGETBV1:
		asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"((uint32_t)(operation == XGETBV1)));
		break;
	case RDMSR:
		asm volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(msr));
		break;
	case WRMSR:
	case EXIT_WRMSR:
		wrmsr(msr, value);
		break;
	case WRMSRNS:
		asm volatile(".byte 0x0f,0x01,0xc6"
			     : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
		break;
	case EXIT_CPUID:
		asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
		break;
	case EXIT_INVD:
		asm volatile("invd" : : : "memory");
		break;
	case EXIT_OUT:
		asm volatile("out %%al, %0" : : "N"(PORT_EXIT), "a"(a));
		break;
	case EXIT_HLT:
		asm volatile("hlt" : : : "memory");
		break;
	default:	/* nothing, which is what all are compared with */
		asm volatile("" : : "a"((uint32_t)value), "d"((uint32_t)(value >> 32)), "c"(msr) : "memory");
	}
}

/* TSC cycles of REPETITIONS of the row's operation, or of nothing, each followed by LFENCE. */
#define REPEAT(operation)								\
	static __attribute__((noinline))						\
	uint64_t repeat_##operation(const struct guest_row *row, const uint64_t *values, int repetitions)	\
	{										\
		uint64_t aux, begin = tsc_begin();					\
											\
		for (int i = 0; i < repetitions; i++) {					\
			once(operation, row, values, i);				\
			asm volatile("lfence" : : : "memory");				\
		}									\
		return tsc_end(&aux) - begin;						\
	}

typedef uint64_t repeat_fn(const struct guest_row *row, const uint64_t *values, int repetitions);

REPEAT(ABOUT)
REPEAT(XSAVES)
REPEAT(XRSTORS)
REPEAT(XGETBV0)
REPEAT(XGETBV1)
REPEAT(RDMSR)
REPEAT(WRMSR)
REPEAT(WRMSRNS)
REPEAT(EXIT_CPUID)
REPEAT(EXIT_INVD)
REPEAT(EXIT_WRMSR)
REPEAT(EXIT_OUT)
REPEAT(EXIT_HLT)

static repeat_fn *const repeats[OPERATIONS] = {
	[ABOUT] = repeat_ABOUT, [XSAVES] = repeat_XSAVES, [XRSTORS] = repeat_XRSTORS,
	[XGETBV0] = repeat_XGETBV0, [XGETBV1] = repeat_XGETBV1,
	[RDMSR] = repeat_RDMSR, [WRMSR] = repeat_WRMSR, [WRMSRNS] = repeat_WRMSRNS,
	[EXIT_CPUID] = repeat_EXIT_CPUID, [EXIT_INVD] = repeat_EXIT_INVD, [EXIT_WRMSR] = repeat_EXIT_WRMSR,
	[EXIT_OUT] = repeat_EXIT_OUT, [EXIT_HLT] = repeat_EXIT_HLT,
};

/* The row's state: what is in use, by an XRSTORS from the area that is to be the last one. */
static void load(const struct guest_row *row)
{
	make_areas(row);
	xrstors(row->same || row->operation == XRSTORS ? area : other, row->requested);
	if (row->touched)
		touch(row->in_use);
}

/*
 * Whether an XSAVES leaves the area as it is: the modified optimisation (Intel SDM vol. 1 section 13.5.4), of components that
 * were not written since the last XRSTORS from it.  x87 and XMM registers stand at fixed places, and what is in use of the
 * others begins at 576 or later; its first component is overwritten wherever it begins.
 */
static uint64_t keeps_area(const struct guest_row *row)
{
	uint8_t *const at[] = { area + 32, area + 160, area + EXTENDED_AT };
	const uint64_t components[] = { FP, SSE, row->requested & ~(FP | SSE) };
	uint64_t kept = 0, looked = 0;

	for (int i = 0; i < 3; i++)
		if (row->in_use & components[i])
			memset(at[i], MARK, i == 2 ? AREA_SIZE - EXTENDED_AT : 16);
	xsaves(area, row->requested);
	for (int i = 0; i < 3; i++) {
		if (!(row->in_use & components[i]))
			continue;
		looked++;
		kept++;
		for (size_t byte = 0; byte < (i == 2 ? AREA_SIZE - EXTENDED_AT : 16); byte++)
			if (at[i][byte] != MARK) {
				kept--;
				break;
			}
	}
	return looked && kept == looked;
}

static void run_row(size_t number)
{
	const struct guest_row *row = &shared->rows[number];
	struct guest_result *result = &shared->results[number];
	uint64_t values[2] = { 0, 0 };
	int of_state = row->operation == XSAVES || row->operation == XRSTORS, of_msr = row->msr != 0;

	if (row->xss != xss_now) {
		wrmsr(MSR_XSS, row->xss);
		xss_now = row->xss;
	}
	if (of_msr) {
		values[0] = rdmsr(row->msr);
		values[1] = row->second ? row->second : values[0];
		if (row->first) {
			wrmsr(row->msr, row->first);
			wrmsr(row->msr, values[0]);
		}
	}
	result->chain_before = chain(timer);
	if (of_state)
		load(row);
	repeats[row->operation](row, values, WARMING);
	result->ticks = repeats[row->operation](row, values, REPETITIONS);
	result->in_use = of_state ? xgetbv(1) | (xstate_bv(area) & row->xss) : row->in_use;
	result->kept = row->operation == XSAVES ? keeps_area(row) : 0;
	result->empty = repeat_ABOUT(row, values, REPETITIONS);
	result->chain_after = chain(timer);
	if (of_msr && row->second)
		wrmsr(row->msr, values[0]);
}

void run_rows(void)
{
	static int ready;

	if (!ready)
		set_up();
	ready = 1;
	for (size_t i = 0; i < shared->count; i++) {
		memset(&shared->results[i], 0, sizeof(shared->results[i]));
		if (shared->rows[i].operation != ABOUT)
			shared->results[i].fault = attempt(run_row, i);
	}
}

asm(
"	.globl	_start\n"
"_start:\n"
"	mov	$stack + 16384, %rsp\n"
"1:	call	run_rows\n"
"	out	%al, $0x80\n"	/* PORT_DONE */
"	jmp	1b\n"
);
