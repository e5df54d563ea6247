// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * fpswitch_bench: what XSAVES, XRSTORS, RDMSR, WRMSR and WRMSRNS cost, with and without CET_S (IA32_XSS[12]).
 *
 * NOT YET RUN ON HARDWARE.  It builds, and under QEMU's software emulation, which has neither XSAVES nor CET_S, it loads,
 * measures the reference MSRs and unloads.  Nobody has loaded it on a machine and reported what came out.
 *
 *     insmod fpswitch_bench.ko && cat /sys/kernel/debug/fpswitch_bench/table > ring0.toml && rmmod fpswitch_bench
 *
 * The file is a cost table of fpswitch (`fpswitch costs check ring0.toml`), measured while it is read, on the CPU that
 * reads it (taskset).  Each block of repetitions runs between kernel_fpu_begin() and kernel_fpu_end() with interrupts
 * off, for some microseconds.  What a block changes it puts back before interrupts come on again: IA32_XSS, IA32_PL0-2_SSP,
 * and the MSRs that serve as a reference, to which it writes only the value that they hold.  The registers of the FPU are
 * the kernel's to lose between kernel_fpu_begin() and kernel_fpu_end().
 *
 * It refuses to load where supervisor shadow stacks are on (IA32_S_CET.SH_STK_EN), since then the SSPs are in use.
 *
 * Intel SDM vol. 1 chapter 13 (compacted format, init and modified optimisation), vol. 2 (XSAVES, XRSTORS, WRMSRNS),
 * vol. 4 (MSRs).
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/debugfs.h>
#include <linux/gfp.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/sort.h>
#include <linux/time64.h>
#include <linux/timekeeping.h>
#include <linux/utsname.h>
#include <linux/vmalloc.h>

#include <asm/asm.h>
#include <asm/fpu/api.h>
#include <asm/msr.h>
#include <asm/processor.h>

#define BLOCKS			201
#define BELOW			86	/* order statistics 87 and 115 of 201: a 95 % interval of the median */
#define REPETITIONS		32
#define CHAIN_ADDS		2000
#define TIMER_TRIES		16
#define CHAIN_MISMATCH_PERCENT	6
#define ATTEMPTS		(4 * BLOCKS)

#define BENCH_XSS		0xda0
#define BENCH_S_CET		0x6a2
#define BENCH_PL0_SSP		0x6a4
#define S_CET_SH_STK_EN		BIT_ULL(0)

#define F_FP			BIT_ULL(0)
#define F_SSE			BIT_ULL(1)
#define F_YMM			BIT_ULL(2)
#define F_AVX512		(BIT_ULL(5) | BIT_ULL(6) | BIT_ULL(7))
#define F_CET_KERNEL		BIT_ULL(12)
#define F_USER			(F_FP | F_SSE | F_YMM | F_AVX512)
#define COMPACTED		BIT_ULL(63)
#define LEAF_XSTATE		0xd
#define EXTENDED_REGION		576
#define LEGACY_REGION		512

/* Canonical, aligned, and never used: supervisor shadow stacks are off. */
#define SOME_SSP		0xffffffff81000000ull

static char *derived_from = "";
module_param(derived_from, charp, 0444);
MODULE_PARM_DESC(derived_from, "table of fpswitch from which the written one is derived, such as sapphire-rapids");

enum what { XSAVES_OTHER, XSAVES_SAME, XRSTORS, RDMSR, WRMSR, WRMSRNS, NOTHING };

struct job {
	enum what what;
	u64 rfbm, in_use;	/* XSAVES and XRSTORS */
	u32 msr;
	u64 values[2];		/* written in turn: what the MSR holds, or an SSP and another */
};

struct numbers {
	u64 value, low, high;	/* tenths of a cycle */
};

static DEFINE_MUTEX(lock);
static void *area, *other;
static u64 *results;
static u64 user_mask;
static bool has_cet_kernel, has_wrmsrns;
static u64 ratio;		/* core cycles per TSC cycle, in ten thousandths, of the last block */

static const char * const names[] = {
	[0] = "FP", [1] = "SSE", [2] = "YMM", [5] = "OPMASK", [6] = "ZMM_Hi256", [7] = "Hi16_ZMM", [12] = "CET_KERNEL",
};

static u64 xcr0(void)
{
	u32 low, high;

	asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (u64)high << 32 | low;
}

static __always_inline u64 begin_ticks(void)
{
	u32 low, high;

	asm volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
	return (u64)high << 32 | low;
}

static __always_inline u64 end_ticks(void)
{
	u32 low, high;

	asm volatile("rdtscp; lfence" : "=a"(low), "=d"(high) : : "ecx", "memory");
	return (u64)high << 32 | low;
}

/* TSC cycles between begin_ticks() and end_ticks() with nothing between them: a few per cent of a chain. */
static noinline u64 timer_cost(void)
{
	u64 begin, least = U64_MAX;
	int i;

	for (i = 0; i < TIMER_TRIES; i++) {
		begin = begin_ticks();
		least = min(least, end_ticks() - begin);
	}
	return least;
}

/* One core cycle each; a register is added, since some cores resolve an add of an immediate when it is renamed. */
static noinline u64 chain(u64 timer)
{
	u64 sum = 0, one = 1, n = CHAIN_ADDS / 10, begin = begin_ticks(), ticks;

	asm volatile("1: .rept 10; add %2, %0; .endr; dec %1; jnz 1b" : "+r"(sum), "+r"(n) : "r"(one) : "cc");
	ticks = end_ticks() - begin;
	return ticks > timer ? ticks - timer : 1;
}

/* An instruction that may fault; the error is 0, or -1 if it did. */
#define GUARDED(instruction, error, ...)				\
	asm volatile("movl $-1, %[failed]\n"				\
		     "1: " instruction "\n"				\
		     "xorl %[failed], %[failed]\n"			\
		     "2:\n"						\
		     _ASM_EXTABLE(1b, 2b)				\
		     : [failed] "=&r"(error)				\
		     : __VA_ARGS__					\
		     : "cc", "memory")

static __always_inline int do_xsaves(void *to, u64 rfbm)
{
	int error;

	GUARDED("xsaves64 (%[to])", error, [to] "D"(to), "a"((u32)rfbm), "d"((u32)(rfbm >> 32)));
	return error;
}

static __always_inline int do_xrstors(const void *from, u64 rfbm)
{
	int error;

	GUARDED("xrstors64 (%[from])", error, [from] "D"(from), "a"((u32)rfbm), "d"((u32)(rfbm >> 32)));
	return error;
}

static __always_inline int do_wrmsr(u32 msr, u64 value)
{
	int error;

	GUARDED("wrmsr", error, "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)));
	return error;
}

static __always_inline int do_wrmsrns(u32 msr, u64 value)
{
	int error;

	GUARDED(".byte 0x0f,0x01,0xc6", error, "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)));
	return error;
}

/* Not rdmsrl_safe(), which is rdmsrq_safe() since Linux v6.16. */
static __always_inline int do_rdmsr(u32 msr, u64 *value)
{
	u32 low, high;
	int error;

	asm volatile("movl $-1, %[failed]\n"
		     "xorl %%eax, %%eax\n"
		     "xorl %%edx, %%edx\n"
		     "1: rdmsr\n"
		     "xorl %[failed], %[failed]\n"
		     "2:\n"
		     _ASM_EXTABLE(1b, 2b)
		     : [failed] "=&r"(error), "=&a"(low), "=&d"(high)
		     : "c"(msr)
		     : "cc", "memory");
	*value = (u64)high << 32 | low;
	return error;
}

/* An area in the compacted format in which the components of `set` have values other than their initial ones. */
static void fill(u8 *to, u64 rfbm, u64 set)
{
	const u64 xcomp_bv = COMPACTED | rfbm, ssp[3] = { SOME_SSP, SOME_SSP, SOME_SSP };
	const u16 fcw = 0x37f;
	const u32 mxcsr = 0x1f80;
	u32 at = EXTENDED_REGION, size, b, c, d;
	int i;

	memset(to, 0, PAGE_SIZE);
	memcpy(to, &fcw, sizeof(fcw));
	memcpy(to + 24, &mxcsr, sizeof(mxcsr));
	if (set & F_FP) {
		to[4] = 1;
		memset(to + 32, 0x3f, 10);
	}
	if (set & F_SSE)
		memset(to + 160, 0x11, 256);
	for (i = 2; i < 63; i++) {
		if (!(rfbm & BIT_ULL(i)))
			continue;
		cpuid_count(LEAF_XSTATE, i, &size, &b, &c, &d);
		if (c & 2)
			at = ALIGN(at, 64);
		if (at + size > PAGE_SIZE)
			return;
		if (set & BIT_ULL(i)) {
			if (i == 12)
				memcpy(to + at, ssp, sizeof(ssp));
			else
				memset(to + at, 0x11, size);
		}
		at += size;
	}
	memcpy(to + LEGACY_REGION, &set, sizeof(set));
	memcpy(to + LEGACY_REGION + 8, &xcomp_bv, sizeof(xcomp_bv));
}

static bool is_ssp(u32 msr)
{
	return msr - BENCH_PL0_SSP < 3;
}

static __always_inline int once(const struct job *job, int i)
{
	u64 unused;

	switch (job->what) {
	case XSAVES_OTHER:
	case XSAVES_SAME:
		return do_xsaves(area, job->rfbm);
	case XRSTORS:
		return do_xrstors(area, job->rfbm);
	case RDMSR:
		return do_rdmsr(job->msr, &unused);
	case WRMSR:
		return do_wrmsr(job->msr, job->values[i & 1]);
	case WRMSRNS:
		return do_wrmsrns(job->msr, job->values[i & 1]);
	default:
		return 0;
	}
}

static __always_inline u64 repeat(const struct job *job, int *error)
{
	u64 begin = begin_ticks();
	int i;

	for (i = 0; i < REPETITIONS; i++) {
		*error |= once(job, i);
		asm volatile("lfence" : : : "memory");
	}
	return end_ticks() - begin;
}

/* Ticks of one block, or 0 if it was disturbed.  Interrupts are off, and the FPU is ours. */
static u64 block(const struct job *job, bool core, int *error)
{
	static const struct job nothing = { .what = NOTHING };
	u64 timer = timer_cost(), before, after, all, empty;

	if (job->rfbm) {
		*error |= do_xrstors(job->what == XSAVES_SAME ? area : other, job->rfbm);
		*error |= once(job, 0);
	}
	before = chain(timer);
	all = repeat(job, error);
	empty = repeat(&nothing, error);
	after = chain(timer);
	ratio = div64_u64(20000ull * CHAIN_ADDS, before + after);
	if (100 * max(before, after) > (100 + CHAIN_MISMATCH_PERCENT) * min(before, after))
		return 0;
	all = all > empty ? all - empty : 1;
	return core ? max_t(u64, div64_u64(all * 2 * CHAIN_ADDS, before + after), 1) : all;
}

/*
 * One block, and everything as it was before.  What a reference MSR holds is read with interrupts off, for each block:
 * it may be a guest's, which KVM leaves there until the return to user mode (Linux arch/x86/kvm/x86.c,
 * kvm_set_user_return_msr()).
 */
static u64 guarded_block(struct job *job, bool core, int *error)
{
	u64 xss, ssp[3], ticks = 0;
	bool sets_xss = job->rfbm && has_cet_kernel, writes = job->what == WRMSR || job->what == WRMSRNS;
	unsigned long flags;
	int i;

	if (job->rfbm) {
		fill(area, job->rfbm, job->in_use);
		fill(other, job->rfbm, job->in_use);
	}
	kernel_fpu_begin();
	local_irq_save(flags);
	for (i = 0; has_cet_kernel && i < 3; i++)
		*error |= do_rdmsr(BENCH_PL0_SSP + i, &ssp[i]);
	if (sets_xss)
		*error |= do_rdmsr(BENCH_XSS, &xss);
	if (writes) {
		*error |= do_rdmsr(job->msr, &job->values[0]);
		job->values[1] = is_ssp(job->msr) ? SOME_SSP : job->values[0];
	}
	if (*error)	/* nothing was changed, and what to put back is not known */
		goto out;
	if (sets_xss)	/* Linux has bit 12 set since v6.17, and clear before */
		*error |= do_wrmsr(BENCH_XSS, (xss & ~F_CET_KERNEL) | (job->rfbm & F_CET_KERNEL));
	if (!*error)
		ticks = block(job, core, error);
	if (sets_xss)
		*error |= do_wrmsr(BENCH_XSS, xss);
	for (i = 0; has_cet_kernel && i < 3; i++)
		*error |= do_wrmsr(BENCH_PL0_SSP + i, ssp[i]);
out:
	local_irq_restore(flags);
	kernel_fpu_end();
	return ticks;
}

static int ascending(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

/* The median of BLOCKS undisturbed blocks and its interval.  Preemption is on between blocks, migration is not. */
static int measure(struct job *job, bool core, struct numbers *numbers)
{
	int got = 0, attempts, error = 0;
	u64 ticks;

	migrate_disable();
	for (attempts = 0; attempts < ATTEMPTS && got < BLOCKS && !error; attempts++) {
		ticks = guarded_block(job, core, &error);
		if (ticks)
			results[got++] = ticks;
		cond_resched();
	}
	migrate_enable();
	if (error)
		return -EFAULT;
	if (got < BLOCKS)
		return -EAGAIN;
	sort(results, BLOCKS, sizeof(results[0]), ascending, NULL);
	numbers->value = div_u64(10 * results[BLOCKS / 2], REPETITIONS);
	numbers->low = div_u64(10 * results[BELOW], REPETITIONS);
	numbers->high = div_u64(10 * results[BLOCKS - 1 - BELOW], REPETITIONS);
	return 0;
}

static void put_components(struct seq_file *to, u64 set)
{
	bool first = true;
	int i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (set & BIT_ULL(i)) {
			seq_printf(to, "%s%s", first ? "" : " ", names[i]);
			first = false;
		}
}

static void put_tenths(struct seq_file *to, const char *key, u64 tenths)
{
	seq_printf(to, "%s = %llu.%llu, ", key, div_u64(tenths, 10), tenths - 10 * div_u64(tenths, 10));
}

static void put_row(struct seq_file *to, const char *operation, const char *term, struct job *job, bool core,
		    const char *texts)
{
	struct numbers numbers;
	int error = measure(job, core, &numbers);

	if (error) {
		seq_printf(to, "  # %s: %s\n", operation, error == -EFAULT ? "it faulted" : "every block was disturbed");
		return;
	}
	seq_printf(to, "  { operation = \"%s\", term = \"%s\", ", operation, term);
	if (job->rfbm && job->in_use) {
		seq_puts(to, "component = \"");
		put_components(to, job->in_use);
		seq_puts(to, "\", ");
	}
	if (!strcmp(term, "total")) {
		seq_puts(to, "requested = \"");
		put_components(to, job->rfbm);
		seq_puts(to, "\", ");
	}
	put_tenths(to, "value", numbers.value);
	put_tenths(to, "low", numbers.low);
	put_tenths(to, "high", numbers.high);
	seq_printf(to, "clock = \"%s\", grade = \"measured\", source = \"{own}\", conditions = \"{%s}\" },\n",
		   core ? "core" : "tsc", texts);
}

static void put_xsave_rows(struct seq_file *to)
{
	static const struct {
		enum what what;
		const char *term, *plain, *initial, *written;
	} ways[] = {
		{ XSAVES_OTHER, "total", "XSAVES", "XSAVES, CET_KERNEL requested but initial", "XSAVES" },
		{ XSAVES_SAME, "reference", "XSAVES, same area", "XSAVES, same area, CET_KERNEL requested but initial",
		  "XSAVES, same area" },
		{ XRSTORS, "total", "XRSTORS", "XRSTORS, CET_KERNEL requested but initial", "XRSTORS" },
	};
	const u64 sets[] = { 0, F_SSE, F_FP | F_SSE, F_FP | F_SSE | F_YMM, F_USER };
	int way, i;

	for (way = 0; way < ARRAY_SIZE(ways); way++)
		for (i = 0; i < ARRAY_SIZE(sets); i++) {
			struct job job = { .what = ways[way].what, .rfbm = user_mask, .in_use = sets[i] & user_mask };

			if (i && job.in_use == (sets[i - 1] & user_mask))
				continue;
			put_row(to, ways[way].plain, ways[way].term, &job, true, "xsave");
			if (!has_cet_kernel)
				continue;
			job.rfbm |= F_CET_KERNEL;
			put_row(to, ways[way].initial, "reference", &job, true, "cet");
			job.in_use |= F_CET_KERNEL;
			put_row(to, ways[way].written, ways[way].term, &job, true, "cet");
		}
}

static void put_msr_rows(struct seq_file *to)
{
	static const struct {
		u32 msr;
		const char *read, *write, *wrmsrns;
	} msrs[] = {
		{ BENCH_PL0_SSP, "RDMSR(PL0_SSP)", "WRMSR(PL0_SSP)", "WRMSRNS(PL0_SSP)" },
		{ BENCH_PL0_SSP + 1, "RDMSR(PL1_SSP)", "WRMSR(PL1_SSP)", "WRMSRNS(PL1_SSP)" },
		{ BENCH_PL0_SSP + 2, "RDMSR(PL2_SSP)", "WRMSR(PL2_SSP)", "WRMSRNS(PL2_SSP)" },
		{ MSR_IA32_SYSENTER_ESP, "RDMSR(SYSENTER_ESP)", "WRMSR(SYSENTER_ESP)", "WRMSRNS(SYSENTER_ESP)" },
		{ MSR_KERNEL_GS_BASE, "RDMSR(KERNEL_GS_BASE)", "WRMSR(KERNEL_GS_BASE)", "WRMSRNS(KERNEL_GS_BASE)" },
		{ MSR_TSC_AUX, "RDMSR(TSC_AUX)", "WRMSR(TSC_AUX)", "WRMSRNS(TSC_AUX)" },
		{ BENCH_XSS, "RDMSR(XSS)", "WRMSR(XSS)", "WRMSRNS(XSS)" },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(msrs); i++) {
		struct job job = { .what = RDMSR, .msr = msrs[i].msr };
		u64 held;

		if ((is_ssp(job.msr) && !has_cet_kernel) || do_rdmsr(job.msr, &held)) {
			seq_printf(to, "  # %s: this CPU does not have it\n", msrs[i].read);
			continue;
		}
		put_row(to, msrs[i].read, "base", &job, false, "msr");
		job.what = WRMSR;
		put_row(to, msrs[i].write, "base", &job, false, "msr");
		job.what = WRMSRNS;
		if (has_wrmsrns)
			put_row(to, msrs[i].wrmsrns, "base", &job, false, "msr");
	}
}

static void put_header(struct seq_file *to)
{
	const struct cpuinfo_x86 *cpu = &boot_cpu_data;
	struct tm now;

	time64_to_tm(ktime_get_real_seconds(), 0, &now);
	seq_printf(to, "# Ring 0 of %s, written by the kernel module fpswitch_bench.\n\n", cpu->x86_model_id);
	seq_printf(to, "title = \"%s, ring 0\"\n", cpu->x86_model_id);
	seq_printf(to, "date = \"%04ld-%02d-%02d\"\n", now.tm_year + 1900, now.tm_mon + 1, now.tm_mday);
	if (*derived_from)
		seq_printf(to, "derived_from = \"%s\"\n", derived_from);
	seq_printf(to, "texts.own = \"measured by fpswitch_bench, %s, Linux %s, %04ld-%02d-%02d\"\n", cpu->x86_model_id,
		   utsname()->release, now.tm_year + 1900, now.tm_mon + 1, now.tm_mday);
}

/* One line for each kind of row; texts do not nest, so each says where. */
static void put_method(struct seq_file *to, const char *name, const char *method)
{
	const struct cpuinfo_x86 *cpu = &boot_cpu_data;

	seq_printf(to, "texts.%s = \"CPU: %s, family %xh model %xh stepping %u, microcode %#x, %s; kernel: Linux %s; ",
		   name, cpu->x86_model_id, cpu->x86, cpu->x86_model, cpu->x86_stepping, cpu->microcode,
		   boot_cpu_has(X86_FEATURE_HYPERVISOR) ? "in a guest" : "no hypervisor", utsname()->release);
	seq_printf(to, "method: ring 0, interrupts off, %s, %d repetitions with LFENCE less as many of nothing, median of %d ",
		   method, REPETITIONS, BLOCKS);
	seq_puts(to, "blocks and the 95 % interval of that median (order statistics)\"\n");
}

static int table_show(struct seq_file *to, void *unused)
{
	mutex_lock(&lock);
	put_header(to);
	put_method(to, "clocks", "dependent adds against the TSC in the last block, range of 2 percent by choice");
	put_method(to, "xsave", "IA32_XSS[12] clear, area in L1, core cycles by chains of adds before and after");
	put_method(to, "cet", "IA32_XSS[12] set and requested, area in L1, core cycles by chains of adds before and after");
	put_method(to, "msr", "WRMSR of the value held, to an SSP of two values in turn");
	seq_puts(to, "\nrows = [\n");
	if (user_mask)
		put_xsave_rows(to);
	put_msr_rows(to);
	seq_puts(to, "  { operation = \"core cycles per TSC cycle\", term = \"ratio\", ");
	seq_printf(to, "value = %llu.%04llu, low = %llu.%04llu, high = %llu.%04llu, ", div_u64(ratio, 10000), ratio % 10000,
		   div_u64(ratio * 98, 1000000), ratio * 98 / 100 % 10000, div_u64(ratio * 102, 1000000),
		   ratio * 102 / 100 % 10000);
	seq_puts(to, "clock = \"tsc\", grade = \"measured\", source = \"{own}\", conditions = \"{clocks}\" },\n]\n");
	mutex_unlock(&lock);
	return 0;
}

/* The file is measured once per open(): a second read() of the same open file must not measure again. */
static int table_open(struct inode *inode, struct file *file)
{
	return single_open_size(file, table_show, NULL, 256 * 1024);
}

static const struct file_operations table_operations = {
	.owner = THIS_MODULE,
	.open = table_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = single_release,
};

static struct dentry *directory;

static int __init fpswitch_bench_init(void)
{
	u32 a, b, c, d;
	u64 s_cet, ssp;

	if (!do_rdmsr(BENCH_S_CET, &s_cet) && s_cet & S_CET_SH_STK_EN) {
		pr_err("supervisor shadow stacks are on: the SSPs are in use and are left alone\n");
		return -EBUSY;
	}
	cpuid(0, &a, &b, &c, &d);
	if (a >= LEAF_XSTATE && boot_cpu_has(X86_FEATURE_XSAVES)) {
		user_mask = xcr0() & F_USER;
		cpuid_count(LEAF_XSTATE, 1, &a, &b, &c, &d);
		has_cet_kernel = c & F_CET_KERNEL && !do_rdmsr(BENCH_PL0_SSP, &ssp);
	}
	cpuid_count(7, 0, &a, &b, &c, &d);
	if (a >= 1) {
		cpuid_count(7, 1, &a, &b, &c, &d);
		has_wrmsrns = a & BIT(19);
	}
	area = (void *)get_zeroed_page(GFP_KERNEL);
	other = (void *)get_zeroed_page(GFP_KERNEL);
	results = vmalloc(BLOCKS * sizeof(*results));
	if (!area || !other || !results) {
		free_page((unsigned long)area);
		free_page((unsigned long)other);
		vfree(results);
		return -ENOMEM;
	}
	directory = debugfs_create_dir("fpswitch_bench", NULL);
	debugfs_create_file("table", 0400, directory, NULL, &table_operations);
	pr_info("XSAVES %s, CET_S %s, WRMSRNS %s\n", user_mask ? "yes" : "no", has_cet_kernel ? "yes" : "no",
		has_wrmsrns ? "yes" : "no");
	return 0;
}

static void __exit fpswitch_bench_exit(void)
{
	debugfs_remove_recursive(directory);
	vfree(results);
	free_page((unsigned long)other);
	free_page((unsigned long)area);
}

module_init(fpswitch_bench_init);
module_exit(fpswitch_bench_exit);

MODULE_DESCRIPTION("Cycles of XSAVES, XRSTORS, RDMSR, WRMSR and WRMSRNS, with and without CET_S; not yet run on hardware");
MODULE_LICENSE("Dual MIT/GPL");
