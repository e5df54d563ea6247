/*
 * Times XSAVE, XSAVEC, XSAVEOPT, XRSTOR and XGETBV with ECX = 1 in user mode.
 *
 *     xsave CPU PASSES L1D_BYTES < plan
 *
 * A line of the plan: operation same touched level set (the set hexadecimal).  Each pass takes one sample of each line,
 * so that what changes in the course of time meets all lines alike.
 *
 * same: the area is that of the last XRSTOR, so that a save may leave out what has not changed since (the modified
 * optimisation, Intel SDM vol. 1 section 13.5.4).  touched: a register of each component in use was written since.
 */
#include "timing.h"
#include "state.h"

#define WARM_REPETITIONS 40
#define COLD_REPETITIONS 16
#define PATIENCE 4	/* single shots for one that left in use what was to be in use, and so many besides */
#define LINE 64

enum operation { XSAVE, XSAVEC, XSAVEOPT, XRSTOR, XRSTOR_STANDARD, XGETBV1, OPERATIONS };
enum level { L1, L2, MEMORY, LEVELS };

struct row {
	unsigned int operation, same, touched, level;
	uint64_t set;
	const uint8_t *standard, *compacted;
};

typedef void operation_fn(void *area, uint64_t rfbm);

#define INSTRUCTION(name, mnemonic)							\
	static __attribute__((noinline)) void name(void *area, uint64_t rfbm)		\
	{										\
		asm volatile(mnemonic " (%0)"						\
			     : : "r"(area), "a"((uint32_t)rfbm), "d"((uint32_t)(rfbm >> 32)) : "memory"); \
	}

INSTRUCTION(do_xsave, "xsave64")
INSTRUCTION(do_xsavec, "xsavec64")
INSTRUCTION(do_xsaveopt, "xsaveopt64")
INSTRUCTION(do_xrstor, "xrstor64")

static __attribute__((noinline)) void do_xgetbv1(void *area, uint64_t rfbm)
{
	asm volatile("" : : "r"(area), "r"(rfbm));
	in_use();
}

static __attribute__((noinline)) void do_nothing(void *area, uint64_t rfbm)
{
	asm volatile("" : : "r"(area), "a"((uint32_t)rfbm), "d"((uint32_t)(rfbm >> 32)) : "memory");
}

static operation_fn *const run[OPERATIONS] = {
	[XSAVE] = do_xsave, [XSAVEC] = do_xsavec, [XSAVEOPT] = do_xsaveopt,
	[XRSTOR] = do_xrstor, [XRSTOR_STANDARD] = do_xrstor, [XGETBV1] = do_xgetbv1,
};

static uint8_t *area, *other, *initial, *evictor;
static uint64_t rfbm, timer;
static size_t area_bytes, evictor_bytes;

static void evict_from_l1(void)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < evictor_bytes; i += LINE)
		sum += *(volatile uint8_t *)(evictor + i);
	asm volatile("" : : "r"(sum));
}

static void flush(const uint8_t *what)
{
	for (size_t i = 0; i < area_bytes; i += LINE)
		asm volatile("clflush (%0)" : : "r"(what + i) : "memory");
}

static int restores(const struct row *row)
{
	return row->operation == XRSTOR || row->operation == XRSTOR_STANDARD;
}

/* The state of the row, by an XRSTOR from the area that is to be the last one. */
static void load(const struct row *row)
{
	xrstor(row->same ? area : other, rfbm);
	if (row->touched)
		touch(row->set);
}

static uint64_t repeat(const struct row *row, operation_fn *operation, uint64_t *aux)
{
	uint8_t *second = restores(row) && !row->same ? other : area;
	uint64_t touched = restores(row) && row->touched ? row->set : 0;
	uint64_t begin = tsc_begin();

	for (int i = 0; i < WARM_REPETITIONS; i++) {
		if (touched)
			touch(touched);
		operation(i & 1 ? second : area, rfbm);
		asm volatile("lfence" : : : "memory");
	}
	return tsc_end(aux) - begin;
}

static void warm(const struct row *row, struct sample *sample)
{
	load(row);
	for (int i = 0; i < 4; i++)
		run[row->operation](area, rfbm);
	sample->ticks = repeat(row, run[row->operation], &sample->cpu_after);
	sample->in_use = in_use();
	sample->empty = repeat(row, do_nothing, &sample->cpu_after);
}

/*
 * One at a time.  What a hypervisor does to a guest may bring components into use (SSE, on two machines that were
 * measured), so a shot that left others in use than it was to is taken again.  The adds in front spread the beginning over the step of the TSC, which may be tens of cycles; the call
 * of nothing brings the stack back to L1, and what is timed finds all else in registers.
 */
static void cold(const struct row *row, struct sample *sample)
{
	operation_fn *const operation = run[row->operation];
	uint8_t *const at = area;
	const uint64_t mask = rfbm;
	uint64_t aux;

	for (int i = 0, tries = 1; i < COLD_REPETITIONS; tries++) {
		uint64_t begin, taken;

		load(row);
		if (row->level == L2)
			evict_from_l1();
		else
			flush(area);
		asm volatile("mfence; lfence" : : : "memory");
		do_nothing(at, mask);
		adds(10 * i);
		begin = tsc_begin();
		operation(at, mask);
		taken = tsc_end(&aux) - begin;
		sample->in_use = in_use();
		if (aux != sample->cpu_before)
			sample->cpu_after = aux;
		if (sample->in_use == row->set) {
			sample->ticks += taken;
			i++;
		} else if (tries >= PATIENCE * (i + PATIENCE)) {
			break;
		}
	}
	for (int i = 0; i < COLD_REPETITIONS; i++) {
		uint64_t begin;

		do_nothing(at, mask);
		adds(10 * i);
		begin = tsc_begin();
		do_nothing(at, mask);
		sample->empty += tsc_end(&aux) - begin;
	}
}

static void measure(const struct row *row, struct sample *sample)
{
	int compacted = row->operation == XRSTOR || row->operation == XSAVEC;
	const uint8_t *from = compacted ? row->compacted : row->standard;

	memcpy(area, from, area_bytes);
	memcpy(other, from, area_bytes);
	tsc_end(&sample->cpu_before);
	sample->cpu_after = sample->cpu_before;
	sample->chain_before = chain(timer);
	if (row->level == L1)
		warm(row, sample);
	else
		cold(row, sample);
	sample->chain_after = chain(timer);
	clear_state(initial, rfbm);
}

/* The images of a set, made once. */
static void images(struct row *row, const struct row *known, size_t count)
{
	uint8_t *both;

	for (size_t i = 0; i < count; i++)
		if (known[i].set == row->set) {
			row->standard = known[i].standard;
			row->compacted = known[i].compacted;
			return;
		}
	both = pages(2 * AREA_SIZE);
	image(both, row->set);
	xrstor(both, rfbm);
	xsavec(both + AREA_SIZE, rfbm);
	clear_state(initial, rfbm);
	row->standard = both;
	row->compacted = both + AREA_SIZE;
}

int main(int argc, char **argv)
{
	uint32_t a, b, c, d;
	size_t count = 0, room = 0;
	struct row *rows = NULL, row = { 0 };
	unsigned long long set;

	if (argc != 4) {
		fprintf(stderr, "usage: xsave CPU PASSES L1D_BYTES\n");
		return 2;
	}
	pin(atoi(argv[1]));
	evictor_bytes = 4 * strtoul(argv[3], NULL, 10);
	rfbm = components_init();
	__cpuid_count(LEAF_XSTATE, 0, a, b, c, d);
	area_bytes = b < AREA_SIZE ? b : AREA_SIZE;
	area = pages(AREA_SIZE);
	other = pages(AREA_SIZE);
	initial = pages(AREA_SIZE);
	evictor = pages(evictor_bytes);
	memset(evictor, 1, evictor_bytes);	/* not the zero page */
	image(initial, 0);
	timer = timer_cost();
	while (scanf("%u %u %u %u %llx", &row.operation, &row.same, &row.touched, &row.level, &set) == 5) {
		if (row.operation >= OPERATIONS || row.level >= LEVELS || set & ~rfbm) {
			fprintf(stderr, "line %zu of the plan is not understood\n", count + 1);
			return 2;
		}
		row.set = set;
		images(&row, rows, count);
		if (count == room) {
			room = room ? 2 * room : 1024;
			rows = realloc(rows, room * sizeof(*rows));
			if (!rows)
				die("realloc");
		}
		rows[count++] = row;
	}
	for (int pass = atoi(argv[2]); pass > 0; pass--)
		for (size_t i = 0; i < count; i++) {
			struct sample sample = { .row = i };

			measure(&rows[i], &sample);
			put(&sample);
		}
	return fflush(stdout) ? 1 : 0;
}
