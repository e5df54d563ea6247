/*
 * What this CPU has, as one JSON document: CPUID's identification, XCR0, and the in-use sets that XGETBV with ECX = 1
 * shows to be reachable; or which instruction it lacks.
 */
#include "timing.h"
#include "state.h"

#define SETS_MAX_BITS 10

/* CPUID.(EAX=0DH,ECX=1):EAX[2:0]. */
static const char *const needed[] = { "XSAVEOPT", "XSAVEC", "XGETBV with ECX = 1" };

int main(void)
{
	uint32_t a, b, c, d, vendor[3], hypervisor[3] = { 0, 0, 0 };
	uint32_t family, model, stepping;
	uint64_t xcr0, subset = 0;
	uint8_t *area;
	int first = 1;

	__cpuid(0, a, vendor[0], vendor[2], vendor[1]);
	__cpuid(1, a, b, c, d);
	if (!(c & bit_OSXSAVE)) {
		puts("{\"missing\": \"XSAVE\"}");
		return 0;
	}
	stepping = a & 0xf;
	family = (a >> 8 & 0xf) + ((a >> 8 & 0xf) == 0xf ? a >> 20 & 0xff : 0);
	model = (a >> 4 & 0xf) | (a >> 12 & 0xf0);
	if (c >> 31)
		__cpuid(0x40000000, a, hypervisor[0], hypervisor[1], hypervisor[2]);
	__cpuid_count(LEAF_XSTATE, 1, a, b, c, d);
	for (int bit = 0; bit < 3; bit++)
		if (!(a >> bit & 1)) {
			printf("{\"missing\": \"%s\"}\n", needed[bit]);
			return 0;
		}
	xcr0 = components_init();
	printf("{\"vendor\": \"%.12s\", \"family\": %u, \"model\": %u, \"stepping\": %u, \"hypervisor\": \"%.12s\", ",
	       (char *)vendor, family, model, stepping, (char *)hypervisor);
	printf("\"xcr0\": %llu, \"sets\": [", (unsigned long long)xcr0);
	area = pages(AREA_SIZE);
	if (__builtin_popcountll(xcr0) <= SETS_MAX_BITS)
		do {
			uint64_t got;

			image(area, subset);
			xrstor(area, xcr0);
			got = in_use() & xcr0;
			image(area, 0);
			clear_state(area, xcr0);
			if (got == subset) {
				printf("%s%llu", first ? "" : ", ", (unsigned long long)subset);
				first = 0;
			}
			subset = (subset - xcr0) & xcr0;
		} while (subset);
	puts("]}");
	return 0;
}
