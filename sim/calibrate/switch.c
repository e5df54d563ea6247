/*
 * Times hand-offs between two processes on one CPU, with different state components in use.
 *
 *     switch CPU PASSES < plan
 *
 * A line of the plan is the in-use set of both processes, hexadecimal.  One process writes a byte to a pipe and sleeps in
 * read() on another, the other does the reverse: two context switches per round trip, in each an XSAVES of the one and an
 * XRSTORS of the other (Linux arch/x86/kernel/fpu/core.c, switch_fpu_prepare() and switch_fpu_return()).  In each pass
 * all sets come in random order, in blocks short enough that a disturbance meets few of them.
 */
#include "timing.h"
#include "state.h"
#include "order.h"
#include "round_trips.h"
#include "syscalls.h"

#include <sys/prctl.h>
#include <signal.h>

#define ROWS_MAX 64

struct shared {
	volatile uint64_t row;
	volatile uint64_t in_use;	/* of the other process */
};

static uint8_t *images[ROWS_MAX];
static uint64_t sets[ROWS_MAX], rfbm, timer;
static int there[2], back[2];
static struct shared *shared;

static void send(int *pipe_ends)
{
	char byte = 0;

	if (raw_syscall(SYS_write, pipe_ends[1], (long)&byte, 1) != 1)
		_exit(1);
}

static void receive(int *pipe_ends)
{
	char byte;

	if (raw_syscall(SYS_read, pipe_ends[0], (long)&byte, 1) != 1)
		_exit(1);
}

static void answer(void)
{
	uint64_t row = ROWS_MAX;

	for (;;) {
		receive(there);
		if (row != shared->row) {
			row = shared->row;
			xrstor(images[row], rfbm);
		}
		shared->in_use = in_use();
		send(back);
	}
}

static void round_trip(void)
{
	send(there);
	receive(back);
}

static void measure(size_t row, struct sample *sample)
{
	sample->row = row;
	shared->row = row;
	xrstor(images[row], rfbm);
	time_round_trips(round_trip, timer, sample);
	if (shared->in_use != sample->in_use)
		sample->in_use = ~0ull;
	clear_state(images[0], rfbm);
}

int main(int argc, char **argv)
{
	size_t count = 0, order[ROWS_MAX];
	unsigned long long set;

	if (argc != 3) {
		fprintf(stderr, "usage: switch CPU PASSES\n");
		return 2;
	}
	pin(atoi(argv[1]));
	rfbm = components_init();
	timer = timer_cost();
	while (count < ROWS_MAX && scanf("%llx", &set) == 1) {
		images[count] = pages(AREA_SIZE);
		image(images[count], set & rfbm);
		sets[count] = set & rfbm;
		order[count] = count;
		count++;
	}
	if (!count || sets[0]) {
		fprintf(stderr, "the plan must begin with the empty set\n");
		return 2;
	}
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || pipe(there) || pipe(back))
		die("setting up");
	switch (fork()) {
	case -1:
		die("fork");
	case 0:
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(there[1]);
		answer();
	}
	close(there[0]);
	for (int pass = atoi(argv[2]); pass > 0; pass--) {
		struct sample samples[ROWS_MAX];

		shuffle(order, count);
		for (size_t i = 0; i < count; i++)
			for (int tries = 0; tries < TRIES; tries++) {
				measure(order[i], &samples[i]);
				if (samples[i].in_use == sets[order[i]])
					break;
			}
		for (size_t i = 0; i < count; i++)
			put(&samples[i]);
	}
	return fflush(stdout) ? 1 : 0;
}
