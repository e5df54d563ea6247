// SPDX-License-Identifier: MIT
// Runs one vector on this processor at CPL 3 and shows what came of each step.  Loaded into the recording process:
// compiled with -mgeneral-regs-only, it touches vector registers where a step says so, and nowhere else.

#include <cpuid.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define AREA 16384
#define SLACK 4096	/* for misaligned areas */
#define BUFFERS 3
#define VEX 64	/* added to a component where instructions with a VEX prefix write it */

enum op { TOUCH, TOUCH1, REINIT, LDMXCSR, XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR, XRSTORS };

struct step {
	int op, component, reg, vex, how, buffer, misalign;
	uint64_t rfbm;
	uint32_t mxcsr;
	const uint8_t *data;		/* what a touch loads */
	const uint8_t *memory;		/* what the buffer is overwritten with before the instruction, if anything */
	uint64_t memory_at, memory_bytes;
};

struct seen {
	uint64_t signal, xinuse;
	uint8_t registers[AREA];	/* a standard-format image; only if asked for, or after a fault */
	uint8_t memory[AREA + SLACK];	/* the buffer of the step */
};

static uint8_t buffers[BUFFERS][AREA + SLACK] __attribute__((aligned(4096)));
static uint8_t initial[AREA] __attribute__((aligned(64)));
static uint8_t callers[AREA] __attribute__((aligned(64)));
static uint8_t looked[AREA] __attribute__((aligned(64)));
static uint8_t at_fault[AREA];
static uint64_t bytes_in_frame;
static sigjmp_buf out_of_step;
static volatile int signalled;

static void copy(void *to, const void *from, uint64_t bytes)
{
	asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) :: "memory");
}

static void zero(void *at, uint64_t bytes)
{
	asm volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(0) : "memory");
}

uint64_t xgetbv(uint32_t which)
{
	uint32_t low, high;

	asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(which));
	return low | (uint64_t)high << 32;
}

/* Whether XTILEDATA may be used from now on.  Its first use makes room for it in signal frames. */
int permit_amx(void)
{
	static const uint8_t one_row[64] = { [0] = 1, [16] = 4, [48] = 1 };

	if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18))
		return 0;
	asm volatile("ldtilecfg (%0)\n\ttilezero %%tmm0\n\ttilerelease" :: "r"(one_row) : "memory");
	return 1;
}

void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t *to)
{
	__cpuid_count(leaf, subleaf, to[0], to[1], to[2], to[3]);
}

#define ON_AREA(name) \
	static void name(void *area, uint64_t mask) \
	{ \
		asm volatile(#name "64 (%0)" :: "r"(area), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)) : "memory"); \
	}
ON_AREA(xsave)
ON_AREA(xsaveopt)
ON_AREA(xsavec)
ON_AREA(xsaves)
ON_AREA(xrstor)
ON_AREA(xrstors)

/* The kernel has saved the registers for the handler, as they were when the instruction faulted. */
static void handler(int number, siginfo_t *info, void *context)
{
	(void)info;
	signalled = number;
	copy(at_fault, ((ucontext_t *)context)->uc_mcontext.fpregs, bytes_in_frame);
	siglongjmp(out_of_step, 1);
}

#define SEVEN(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6)
#define EIGHT(f) SEVEN(f) f(7)
#define SIXTEEN(f) EIGHT(f) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15)
#define UPPER_SIXTEEN(f) \
	f(16) f(17) f(18) f(19) f(20) f(21) f(22) f(23) f(24) f(25) f(26) f(27) f(28) f(29) f(30) f(31)

#define LOAD_XMM(i) case i: asm volatile("movups (%0), %%xmm" #i :: "r"(from)); break;
#define VEX_LOAD_XMM(i) case i: asm volatile("vmovups (%0), %%xmm" #i :: "r"(from)); break;
#define VEX_LOAD_YMM_HIGH(i) case i: asm volatile("vinsertf128 $1, (%0), %%ymm" #i ", %%ymm" #i :: "r"(from)); break;
#define LOAD_YMM_HIGH(i) case i: asm volatile("vinserti32x4 $1, (%0), %%zmm" #i ", %%zmm" #i :: "r"(from)); break;
#define LOAD_K(i) case i: asm volatile("kmovq (%0), %%k" #i :: "r"(from)); break;
#define LOAD_ZMM_HIGH(i) case i: asm volatile("vinserti64x4 $1, (%0), %%zmm" #i ", %%zmm" #i :: "r"(from)); break;
#define LOAD_ZMM(i) case i: asm volatile("vmovdqu64 (%0), %%zmm" #i :: "r"(from)); break;
#define LOAD_TILE(i) case i: asm volatile("tileloadd (%0,%1,1), %%tmm" #i :: "r"(from), "r"(64L)); break;

static void load(int component, int reg, int vex, const uint8_t *from)
{
	switch (component + (vex ? VEX : 0)) {
	case 1: switch (reg) { SIXTEEN(LOAD_XMM) } break;
	case 2: switch (reg) { SIXTEEN(LOAD_YMM_HIGH) } break;
	case VEX + 1: switch (reg) { SIXTEEN(VEX_LOAD_XMM) } break;
	case VEX + 2: switch (reg) { SIXTEEN(VEX_LOAD_YMM_HIGH) } break;
	case 5: switch (reg) { EIGHT(LOAD_K) } break;
	case 6: switch (reg) { SIXTEEN(LOAD_ZMM_HIGH) } break;
	case 7: switch (reg + 16) { UPPER_SIXTEEN(LOAD_ZMM) } break;
	case 18: switch (reg) { SEVEN(LOAD_TILE) } break;
	}
}

static const int registers[] = { [1] = 16, [2] = 16, [5] = 8, [6] = 16, [7] = 16, [18] = 7 };
static const int width[] = { [1] = 16, [2] = 16, [5] = 8, [6] = 32, [7] = 64, [18] = 1024 };

static void touch(int component, int vex, const uint8_t *from)
{
	if (component == 0)
		asm volatile("frstor (%0)" :: "r"(from));
	else if (component == 17)
		asm volatile("ldtilecfg (%0)" :: "r"(from));
	else
		for (int reg = 0; reg < registers[component]; reg++)
			load(component, reg, vex, from + reg * width[component]);
}

#define XORPS(i) asm volatile("xorps %xmm" #i ", %xmm" #i);
#define VXORPS(i) asm volatile("vxorps %xmm" #i ", %xmm" #i ", %xmm" #i);
#define VXORPS_256(i) asm volatile("vxorps %ymm" #i ", %ymm" #i ", %ymm" #i);
#define TILEZERO(i) asm volatile("tilezero %tmm" #i);
#define KXORQ(i) asm volatile("kxorq %k" #i ", %k" #i ", %k" #i);
#define VPXORQ(i) asm volatile("vpxorq %zmm" #i ", %zmm" #i ", %zmm" #i);

/* The order is that of HOWS in recording.py. */
static void reinit(int how)
{
	static const uint8_t zeros[16 * 32];

	switch (how) {
	case 0: asm volatile("fninit"); break;
	case 1: SIXTEEN(XORPS) break;
	case 2: touch(2, 0, zeros); break;
	case 3: asm volatile("vzeroupper"); break;
	case 4: asm volatile("vzeroall"); break;
	case 5: EIGHT(KXORQ) break;
	case 6: touch(6, 0, zeros); break;
	case 7: UPPER_SIXTEEN(VPXORQ) break;
	case 8: SIXTEEN(VXORPS) break;
	case 9: SIXTEEN(VXORPS_256) break;
	case 10: touch(2, 1, zeros); break;
	case 11: SEVEN(TILEZERO) break;
	case 12: asm volatile("tilerelease"); break;
	}
}

static void run_step(const struct step *step)
{
	uint8_t *buffer = buffers[step->buffer], *area = buffer + step->misalign;

	if (step->memory)
		copy(buffer + step->memory_at, step->memory, step->memory_bytes);
	switch ((enum op)step->op) {
	case TOUCH: touch(step->component, step->vex, step->data); break;
	case TOUCH1: load(step->component, step->reg, step->vex, step->data); break;
	case REINIT: reinit(step->how); break;
	case LDMXCSR: asm volatile("ldmxcsr %0" :: "m"(step->mxcsr)); break;
	case XSAVE: xsave(area, step->rfbm); break;
	case XSAVEOPT: xsaveopt(area, step->rfbm); break;
	case XSAVEC: xsavec(area, step->rfbm); break;
	case XSAVES: xsaves(area, step->rfbm); break;
	case XRSTOR: xrstor(area, step->rfbm); break;
	case XRSTORS: xrstors(area, step->rfbm); break;
	}
}

/*
 * Runs the steps from the start state of the vectors; the first that faults is the last.  The frame of a signal has all
 * the components within in_frame bytes.  With look, an XSAVE to another area shows the registers after each step.
 */
void run(const struct step *steps, int count, struct seen *seen, uint64_t components, uint64_t in_frame, int look)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER };
	struct sigaction segv, bus, ill;
	volatile int i;

	bytes_in_frame = in_frame;
	for (i = 0; i < BUFFERS; i++)
		zero(buffers[i], sizeof(buffers[i]));
	*(uint16_t *)initial = 0x37f;
	*(uint32_t *)(initial + 24) = 0x1f80;
	sigaction(SIGSEGV, &action, &segv);
	sigaction(SIGBUS, &action, &bus);
	sigaction(SIGILL, &action, &ill);
	xsave(callers, components);	/* the ABI preserves the control words */
	i = 0;
	if (sigsetjmp(out_of_step, 1)) {
		seen[i].signal = signalled;
		copy(seen[i].registers, at_fault, in_frame);
		goto out;
	}
	/* From here on nothing of libc, which may use vector registers. */
	xrstor(initial, components);
	for (; i < count; i++) {
		run_step(steps + i);
		seen[i].xinuse = xgetbv(1);
		copy(seen[i].memory, buffers[steps[i].buffer], sizeof(seen[i].memory));
		if (look) {
			xsave(looked, components);
			copy(seen[i].registers, looked, AREA);
		}
	}
out:
	xrstor(callers, components);
	sigaction(SIGSEGV, &segv, 0);
	sigaction(SIGBUS, &bus, 0);
	sigaction(SIGILL, &ill, 0);
}
