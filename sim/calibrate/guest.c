/*
 * Runs guest_code.c at CPL 0 of a virtual machine, row by row of a plan, and counts the exits of each row.
 *
 *     guest CPU CODE PASSES SLOWER < plan		CODE: the file that guest_code.c was made into
 *     guest CPU CODE about SLOWER			what CPUID says in the guest, as JSON
 *
 * A line of the plan is a struct guest_row (guest.h), field by field, hexadecimal.  Each block is one KVM_RUN, after another
 * of the same row that is not timed; what KVM counts as exits meanwhile (KVM_GET_STATS_FD, "exits"), less the one that ends
 * it, says whether the row's instruction exits, and whether the block was interrupted.
 *
 * Guest memory is one slot of huge pages; the guest maps it with 2 MiB pages, too.  No interrupt controller is made, so HLT
 * exits to user space.  AMX has to be asked for before the first vCPU (Documentation/arch/x86/xstate.rst).
 *
 * Exit status 3: see kvm.h.
 */
#include "kvm.h"
#include "order.h"
#include "guest.h"

#include <elf.h>
#include <inttypes.h>

#define ARCH_REQ_XCOMP_GUEST_PERM 0x1025
#define HUGE_PAGE (2ul << 20)
#define PAGE_PRESENT_WRITABLE 3ull
#define PAGE_LARGE (1ull << 7)
#define CR0_PE 1ull
#define CR0_NW (1ull << 29)
#define CR0_CD (1ull << 30)
#define CR0_PG (1ull << 31)
#define CR4_PAE (1ull << 5)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)

/* sim/calibrate/guest.py reads it. */
struct guest_sample {
	struct sample sample;
	uint64_t exits;
	uint64_t fault;		/* vector plus 1 */
	uint64_t kept;
};

static uint8_t *memory;
static struct guest_shared *shared;
static int stats, exits_at;

/* Into memory; returns where it begins. */
static uint64_t load_code(const char *path)
{
	Elf64_Ehdr header;
	Elf64_Phdr segment;
	FILE *file = fopen(path, "rb");

	if (!file || fread(&header, sizeof(header), 1, file) != 1)
		die(path);
	for (int i = 0; i < header.e_phnum; i++) {
		if (fseek(file, header.e_phoff + i * sizeof(segment), SEEK_SET) ||
		    fread(&segment, sizeof(segment), 1, file) != 1)
			die(path);
		if (segment.p_type != PT_LOAD || !segment.p_filesz)
			continue;
		if (segment.p_paddr + segment.p_memsz > SHARED_AT || fseek(file, segment.p_offset, SEEK_SET) ||
		    fread(memory + segment.p_paddr, segment.p_filesz, 1, file) != 1)
			die(path);
	}
	fclose(file);
	return header.e_entry;
}

/* The first GiB one to one, in 2 MiB pages (Intel SDM vol. 3, 4-level paging). */
static void make_page_tables(void)
{
	uint64_t *pml4 = (uint64_t *)(memory + TABLES_AT), *pdpt = pml4 + 512, *directory = pdpt + 512;

	pml4[0] = (TABLES_AT + 4096) | PAGE_PRESENT_WRITABLE;
	pdpt[0] = (TABLES_AT + 8192) | PAGE_PRESENT_WRITABLE;
	for (uint64_t i = 0; i < 512; i++)
		directory[i] = i * HUGE_PAGE | PAGE_LARGE | PAGE_PRESENT_WRITABLE;
}

static void set_registers(uint64_t entry)
{
	const struct kvm_segment code = { .limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
	const struct kvm_segment data = { .limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
	struct kvm_regs regs = { .rip = entry, .rflags = 2 };
	struct kvm_sregs sregs;

	if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
		unavailable("KVM_GET_SREGS");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr0 = (sregs.cr0 & ~(CR0_CD | CR0_NW)) | CR0_PE | CR0_PG;	/* a reset sets both; SVM may heed them */
	sregs.cr3 = TABLES_AT;
	sregs.cr4 |= CR4_PAE;
	sregs.efer = EFER_LME | EFER_LMA;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs))
		unavailable("KVM_SET_SREGS");
}

static void make_guest(const char *code, uint64_t slower)
{
	uint8_t *at = mmap(NULL, MEMORY + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t entry;

	if (at == MAP_FAILED)
		die("mmap");
	memory = (uint8_t *)(((uintptr_t)at + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
	madvise(memory, MEMORY, MADV_HUGEPAGE);		/* before anything touches it, which would make small pages */
	memset(memory, 0, MEMORY);
	shared = (struct guest_shared *)(memory + SHARED_AT);
	entry = load_code(code);
	make_page_tables();
	syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_GUEST_PERM, 18);	/* where it fails, there is no AMX */
	make_vcpu(memory, MEMORY);
	refuse_interpreted(memory, timer_cost(), slower);
	set_registers(entry);
}

/* Where the vCPU's number of exits stands in its statistics (Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD). */
static void find_exits(void)
{
	struct kvm_stats_header header;
	struct { struct kvm_stats_desc desc; char name[256]; } each;
	ssize_t size;

	stats = ioctl(vcpu, KVM_GET_STATS_FD, NULL);
	if (stats < 0)
		unavailable("KVM_GET_STATS_FD, which Linux has since 5.14");
	if (pread(stats, &header, sizeof(header), 0) != sizeof(header) || header.name_size > sizeof(each.name))
		unavailable("KVM_GET_STATS_FD");
	size = sizeof(each.desc) + header.name_size;
	for (uint32_t i = 0; i < header.num_desc; i++) {
		if (pread(stats, &each, size, header.desc_offset + i * size) != size)
			unavailable("KVM_GET_STATS_FD");
		if (!strcmp(each.desc.name, "exits")) {
			exits_at = header.data_offset + each.desc.offset;
			return;
		}
	}
	fprintf(stderr, "KVM does not count the exits of a vCPU here, so it cannot be told which instructions exit\n");
	exit(UNAVAILABLE);
}

static uint64_t exits(void)
{
	uint64_t count;

	if (pread(stats, &count, sizeof(count), exits_at) != sizeof(count))
		die("KVM_GET_STATS_FD");
	return count;
}

/* One round of the guest: the rows in shared memory.  Rows of OUT and HLT come by, too. */
static void round_trip(void)
{
	for (;;) {
		uint32_t reason = run_vcpu();

		if (reason == KVM_EXIT_HLT || (reason == KVM_EXIT_IO && vcpu_run->io.port == PORT_EXIT))
			continue;
		if (reason == KVM_EXIT_IO && vcpu_run->io.port == PORT_DONE)
			return;
		if (reason == KVM_EXIT_IO && vcpu_run->io.port == PORT_FAULT)
			fprintf(stderr, "the guest met exception %u while it set itself up\n",
				*((uint8_t *)vcpu_run + vcpu_run->io.data_offset));
		else if (reason == KVM_EXIT_FAIL_ENTRY)
			fprintf(stderr, "the processor refuses to enter the guest (hardware reason %#llx)\n",
				(unsigned long long)vcpu_run->fail_entry.hardware_entry_failure_reason);
		else if (reason == KVM_EXIT_INTERNAL_ERROR)
			fprintf(stderr, "KVM cannot run the guest (KVM_EXIT_INTERNAL_ERROR %u)\n", vcpu_run->internal.suberror);
		else
			fprintf(stderr, "KVM cannot run the guest (exit reason %u)\n", reason);
		exit(UNAVAILABLE);
	}
}

static void measure(const struct guest_row *row, struct guest_sample *found)
{
	const struct guest_result *result = &shared->results[0];
	uint64_t before;

	shared->rows[0] = *row;
	round_trip();
	tsc_end(&found->sample.cpu_before);
	before = exits();
	round_trip();
	found->exits = exits() - before - 1;
	tsc_end(&found->sample.cpu_after);
	found->sample.chain_before = result->chain_before;
	found->sample.ticks = result->ticks;
	found->sample.empty = result->empty;
	found->sample.chain_after = result->chain_after;
	found->sample.in_use = result->fault ? row->in_use : result->in_use;
	found->fault = result->fault;
	found->kept = result->kept;
}

int main(int argc, char **argv)
{
	static struct guest_row rows[ROWS_MAX];
	size_t count = 0, order[ROWS_MAX];
	struct guest_row row;

	if (argc != 5) {
		fprintf(stderr, "usage: guest CPU CODE PASSES SLOWER\n");
		return 2;
	}
	pin(atoi(argv[1]));
	make_guest(argv[2], strtoull(argv[4], NULL, 10));
	find_exits();
	round_trip();
	if (!strcmp(argv[3], "about")) {
		printf("{\"xcr0\": %" PRIu64 ", \"xss\": %" PRIu64 ", \"xsaves\": %" PRIu64 ", \"shadow_stacks\": %" PRIu64 "}\n",
		       shared->about.xcr0, shared->about.xss, shared->about.xsaves, shared->about.shadow_stacks);
		return fflush(stdout) ? 1 : 0;
	}
	shared->count = 1;
	while (count < ROWS_MAX &&
	       scanf("%" SCNx64 "%" SCNx64 "%" SCNx64 "%" SCNx64 "%" SCNx64 "%" SCNx64 "%" SCNx64 "%" SCNx64 "%" SCNx64,
		     &row.operation, &row.xss, &row.requested, &row.in_use, &row.same, &row.touched, &row.msr, &row.first,
		     &row.second) == 9) {
		if (!row.operation || row.operation >= OPERATIONS) {
			fprintf(stderr, "line %zu of the plan is not understood\n", count + 1);
			return 2;
		}
		order[count] = count;
		rows[count++] = row;
	}
	for (int pass = atoi(argv[3]); pass > 0; pass--) {
		shuffle(order, count);
		for (size_t i = 0; i < count; i++) {
			struct guest_sample found = { .sample.row = order[i] };

			measure(&rows[order[i]], &found);
			if (fwrite(&found, sizeof(found), 1, stdout) != 1)
				die("write");
		}
	}
	return fflush(stdout) ? 1 : 0;
}
