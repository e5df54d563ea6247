/*
 * Times calls in which the kernel executes one XSAVES and one XRSTORS of the caller at CPL 0.
 *
 *     in_place CPU urandom|switch PASSES < plan
 *
 * urandom: a write of 64 bytes to /dev/urandom, which Linux hashes between kernel_fpu_begin() and kernel_fpu_end(): an
 * XSAVES at the beginning, an XRSTORS on the way back to user mode (arch/x86/kernel/fpu/core.c, kernel_fpu_begin_mask();
 * drivers/char/random.c).  Anybody may write there; what is written is mixed in and credited with nothing.
 * switch: sched_yield() to another thread on the same CPU, which has nothing in use, and back.
 *
 * A line of the plan: the in-use set (hexadecimal), whether a register of each component in use is written before each
 * call, and whether the tracking of the modified optimisation is lost before each call: by an XRSTOR with RFBM = 0 of an
 * area of ours, which loads nothing, but after which the last restore was not from the kernel's area (Intel SDM vol. 1,
 * section 13.6).  In `empty` is what that costs, with a getppid() for each call.
 *
 * Exit status 3: it cannot be measured here; the reason is on standard error.
 */
#include "timing.h"
#include "state.h"
#include "order.h"
#include "syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>

#define ROWS_MAX 128
#define CALLS 48
#define UNTIMED_CALLS 6
#define BLOCK 64
#define UNAVAILABLE 3
#define PAUSE_US 2000		/* after each pass, for whoever else is to run on this CPU */

struct row {
	uint64_t set;
	int touched, lost;
	uint8_t *image;
};

static struct row rows[ROWS_MAX];
static uint8_t *initial;
static uint64_t rfbm, timer;
static int cpu, urandom = -1;
static volatile uint32_t going;
static uint8_t block[BLOCK];

static __attribute__((noreturn)) void unavailable(const char *why)
{
	fprintf(stderr, "%s: %s\n", why, strerror(errno));
	exit(UNAVAILABLE);
}

static void real_time(int on)
{
	struct sched_param parameter = { .sched_priority = on };

	if (sched_setscheduler(0, on ? SCHED_FIFO : SCHED_OTHER, &parameter))
		unavailable("a switch between two SCHED_FIFO threads needs CAP_SYS_NICE");
}

static void *other_thread(void *unused)
{
	pin(cpu);
	real_time(1);
	xrstor(initial, rfbm);
	for (;;) {
		while (!going)
			raw_syscall(SYS_futex, (long)&going, FUTEX_WAIT, 0);
		while (going)
			raw_syscall(SYS_sched_yield, 0, 0, 0);
	}
	return unused;
}

static void call(void)
{
	if (urandom < 0)
		raw_syscall(SYS_sched_yield, 0, 0, 0);
	else if (raw_syscall(SYS_write, urandom, (long)block, BLOCK) != BLOCK)
		unavailable("write to /dev/urandom");
}

static inline void before(const struct row *row)
{
	if (row->lost)
		xrstor(initial, 0);
	if (row->touched)
		touch(row->set);
}

static void time_calls(const struct row *row, struct sample *sample)
{
	uint64_t each[CALLS], begin, aux;

	xrstor(row->image, rfbm);
	for (int i = 0; i < UNTIMED_CALLS; i++) {
		before(row);
		call();
	}
	tsc_end(&sample->cpu_before);
	sample->chain_before = chain(timer);
	for (int i = 0; i < CALLS; i++) {
		begin = tsc_begin();
		before(row);
		call();
		each[i] = tsc_end(&sample->cpu_after) - begin;
	}
	sample->in_use = in_use();
	begin = tsc_begin();
	for (int i = 0; i < CALLS; i++) {
		before(row);
		raw_syscall(SYS_getppid, 0, 0, 0);
	}
	sample->empty = tsc_end(&aux) - begin;
	sample->chain_after = chain(timer);
	clear_state(initial, rfbm);
	sample->ticks = twice_the_shorter_half(each, CALLS);
}

static void measure(const struct row *row, struct sample *sample)
{
	if (urandom >= 0) {
		time_calls(row, sample);
		return;
	}
	real_time(1);		/* before the other thread wakes, which would keep this one from running */
	going = 1;
	raw_syscall(SYS_futex, (long)&going, FUTEX_WAKE, 1);
	time_calls(row, sample);
	going = 0;
	raw_syscall(SYS_sched_yield, 0, 0, 0);
	real_time(0);
}

int main(int argc, char **argv)
{
	size_t count = 0, order[ROWS_MAX];
	unsigned long long set;
	int touched, lost;
	pthread_t thread;

	if (argc != 4 || (strcmp(argv[2], "urandom") && strcmp(argv[2], "switch"))) {
		fprintf(stderr, "usage: in_place CPU urandom|switch PASSES\n");
		return 2;
	}
	cpu = atoi(argv[1]);
	pin(cpu);
	rfbm = components_init();
	timer = timer_cost();
	initial = pages(AREA_SIZE);
	image(initial, 0);
	while (count < ROWS_MAX && scanf("%llx %d %d", &set, &touched, &lost) == 3) {
		rows[count] = (struct row){ set & rfbm, touched, lost, pages(AREA_SIZE) };
		image(rows[count].image, rows[count].set);
		order[count] = count;
		count++;
	}
	if (!strcmp(argv[2], "urandom")) {
		urandom = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
		if (urandom < 0)
			unavailable("/dev/urandom");
	} else {
		real_time(1);
		real_time(0);
		if (pthread_create(&thread, NULL, other_thread, NULL))
			die("pthread_create");
	}
	for (int pass = atoi(argv[3]); pass > 0; pass--) {
		shuffle(order, count);
		for (size_t i = 0; i < count; i++) {
			const struct row *row = &rows[order[i]];
			struct sample sample = { .row = order[i] };

			for (int tries = row->touched ? 1 : TRIES; tries > 0; tries--) {
				measure(row, &sample);
				if (sample.in_use == row->set)
					break;
			}
			put(&sample);
		}
		usleep(PAUSE_US);
	}
	return fflush(stdout) ? 1 : 0;
}
