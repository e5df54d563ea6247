/* Random order, so that no row always comes after the same other one and takes on what that leaves in the caches. */
#ifndef ORDER_H
#define ORDER_H

#include "timing.h"

#include <stddef.h>

/* Xorshift (Marsaglia 2003). */
static inline uint64_t next_random(void)
{
	static uint64_t random_state;

	if (!random_state)
		random_state = tsc_begin() | 1;
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static inline void shuffle(size_t *order, size_t count)
{
	for (size_t i = count; i > 1; i--) {
		size_t j = next_random() % i, kept = order[i - 1];

		order[i - 1] = order[j];
		order[j] = kept;
	}
}

#endif
