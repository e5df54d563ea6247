/*
 * Time on one CPU: the TSC, and beside it a chain of dependent adds that takes one core cycle each.
 *
 * LFENCE around RDTSC and after RDTSCP: Intel SDM vol. 2, RDTSC and RDTSCP.  IA32_TSC_AUX holds the CPU's number on
 * Linux (arch/x86/kernel/cpu/common.c, setup_getcpu), so a migration shows in the samples.
 */
#ifndef TIMING_H
#define TIMING_H

#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHAIN_ADDS 4000
#define TRIES 4			/* of a block that left other components in use than it was to, as a hypervisor may do */

/* What a measuring program writes to standard output, many times; sim/calibrate/samples.py reads it. */
struct sample {
	uint64_t row;		/* line of the plan */
	uint64_t chain_before;	/* TSC cycles of CHAIN_ADDS dependent adds */
	uint64_t ticks;		/* TSC cycles of all repetitions */
	uint64_t empty;		/* TSC cycles of as many repetitions of nothing */
	uint64_t chain_after;
	uint64_t cpu_before;	/* TSC_AUX */
	uint64_t cpu_after;
	uint64_t in_use;	/* XINUSE afterwards */
};

static inline uint64_t tsc_begin(void)
{
	uint32_t low, high;

	asm volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

static inline uint64_t tsc_end(uint64_t *aux)
{
	uint32_t low, high, c;

	asm volatile("rdtscp; lfence" : "=a"(low), "=d"(high), "=c"(c) : : "memory");
	*aux = c;
	return (uint64_t)high << 32 | low;
}

/*
 * n dependent adds, 10 at a time.  A register is added, since some cores resolve an add of an immediate when it is
 * renamed, in no time.
 */
static inline void adds(uint32_t n)
{
	uint64_t sum = 0, one = 1;

	if (!n)
		return;
	n /= 10;
	asm volatile("1: .rept 10; add %2, %0; .endr; dec %1; jnz 1b" : "+r"(sum), "+r"(n) : "r"(one) : "cc");
}

/* TSC cycles between a tsc_begin() and a tsc_end() with nothing between them, the mean of undisturbed ones. */
static inline uint64_t timer_cost(void)
{
	uint64_t aux, least = UINT64_MAX, sum = 0, count = 0, taken[1024];

	for (int i = 0; i < 1024; i++) {
		uint64_t begin;

		adds(10 * (i % 16));
		begin = tsc_begin();
		taken[i] = tsc_end(&aux) - begin;
		if (taken[i] && taken[i] < least)
			least = taken[i];
	}
	for (int i = 0; i < 1024; i++)
		if (taken[i] <= 4 * least) {
			sum += taken[i];
			count++;
		}
	return sum / count;
}

static inline uint64_t chain(uint64_t timer)
{
	uint64_t aux, begin = tsc_begin(), end;

	adds(CHAIN_ADDS);
	end = tsc_end(&aux);
	return end - begin > timer ? end - begin - timer : 1;
}

static inline int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Of things that were timed one by one, what all would take if the longer half were as the shorter: an interrupt or
   another process that ran meanwhile does not count. */
static inline uint64_t twice_the_shorter_half(uint64_t *each, size_t count)
{
	uint64_t sum = 0;

	qsort(each, count, sizeof(each[0]), ascending);
	for (size_t i = 0; i < count / 2; i++)
		sum += 2 * each[i];
	return sum;
}

static inline void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set)) {
		perror("sched_setaffinity");
		exit(1);
	}
}

static inline void put(const struct sample *sample)
{
	if (fwrite(sample, sizeof(*sample), 1, stdout) != 1) {
		perror("write");
		exit(1);
	}
}

#endif
