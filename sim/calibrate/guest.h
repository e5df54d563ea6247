/*
 * What guest.c, which makes a virtual machine, and guest_code.c, which runs in it, have in common: where things are in the
 * guest's memory, and how a row of the plan and what came of it look.
 */
#ifndef GUEST_H
#define GUEST_H

/* Guest-physical addresses, which are its linear ones, too.  guest_code.c is linked to CODE_AT (programs.py). */
#define TABLES_AT 0x10000	/* PML4, PDPT and a page directory of 2 MiB pages: the first GiB */
#define CODE_AT 0x200000
#define SHARED_AT 0x400000
#define MEMORY 0x600000

#define PORT_DONE 0x80		/* a round is over; 0x80 is free on a PC (POST codes) */
#define PORT_FAULT 0x84		/* an exception where none was expected: its vector */
#define PORT_EXIT 0x86		/* what the rows of OUT write to */

#define REPETITIONS 40		/* in a block */
#define WARMING 4		/* before it, untimed */
#define ROWS_MAX 256

#ifndef __ASSEMBLER__	/* tests/guest/boot.S */
#include <stdint.h>

enum operation {
	ABOUT, XSAVES, XRSTORS, XGETBV0, XGETBV1, RDMSR, WRMSR, WRMSRNS,
	EXIT_CPUID, EXIT_INVD, EXIT_WRMSR, EXIT_OUT, EXIT_HLT, OPERATIONS
};

struct guest_row {
	uint64_t operation;
	uint64_t xss;		/* IA32_XSS while it runs */
	uint64_t requested;	/* XSAVES, XRSTORS: RFBM */
	uint64_t in_use;
	uint64_t same;		/* the area is that of the last XRSTORS, whose registers were not written since ... */
	uint64_t touched;	/* ... or a register of each component was */
	uint64_t msr;
	uint64_t first;		/* written to the MSR once before, if not zero: some KVM intercepts up to then */
	uint64_t second;	/* written in turn with what the MSR held, if not zero */
};

struct guest_result {
	uint64_t chain_before, ticks, empty, chain_after;
	uint64_t in_use;	/* XINUSE after the block; of what is in IA32_XSS, XSTATE_BV of the area */
	uint64_t kept;		/* whether another XSAVES then left alone what was put into the area meanwhile */
	uint64_t fault;		/* vector of the exception that ended the row, plus 1 */
};

/* What CPUID says in the guest. */
struct guest_about {
	uint64_t xcr0, xss;	/* the components that it may enable */
	uint64_t xsaves, shadow_stacks;
};

struct guest_shared {
	uint64_t count;
	struct guest_about about;
	struct guest_row rows[ROWS_MAX];
	struct guest_result results[ROWS_MAX];
};

#endif
#endif
