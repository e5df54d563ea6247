/* Round trips that are too long to be timed one by one, between what shows whether the clock or the CPU has changed. */
#ifndef ROUND_TRIPS_H
#define ROUND_TRIPS_H

#include "timing.h"
#include "state.h"

#define ROUND_TRIPS 20
#define UNTIMED_ROUND_TRIPS 3

static inline __attribute__((always_inline))
void time_round_trips(void (*round_trip)(void), uint64_t timer, struct sample *sample)
{
	uint64_t begin;

	for (int i = 0; i < UNTIMED_ROUND_TRIPS; i++)
		round_trip();
	tsc_end(&sample->cpu_before);
	sample->chain_before = chain(timer);
	begin = tsc_begin();
	for (int i = 0; i < ROUND_TRIPS; i++)
		round_trip();
	sample->ticks = tsc_end(&sample->cpu_after) - begin;
	sample->chain_after = chain(timer);
	sample->in_use = in_use();
}

#endif
