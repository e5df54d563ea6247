/* Round trips between what shows whether the clock or the CPU has changed. */
#ifndef ROUND_TRIPS_H
#define ROUND_TRIPS_H

#include "timing.h"
#include "state.h"

#define ROUND_TRIPS 20
#define UNTIMED_ROUND_TRIPS 3

static inline __attribute__((always_inline))
void time_round_trips(void (*round_trip)(void), uint64_t timer, struct sample *sample)
{
	uint64_t begin, each[ROUND_TRIPS];

	for (int i = 0; i < UNTIMED_ROUND_TRIPS; i++)
		round_trip();
	tsc_end(&sample->cpu_before);
	sample->chain_before = chain(timer);
	for (int i = 0; i < ROUND_TRIPS; i++) {
		begin = tsc_begin();
		round_trip();
		each[i] = tsc_end(&sample->cpu_after) - begin;
	}
	sample->in_use = in_use();
	sample->chain_after = chain(timer);
	sample->ticks = twice_the_shorter_half(each, ROUND_TRIPS);
}

#endif
