// CPUID's registers, one line for each sub-leaf, as cpuid -r prints them.
#include <cpuid.h>
#include <stdio.h>

static void show(unsigned leaf, unsigned sub)
{
	unsigned a, b, c, d;

	__cpuid_count(leaf, sub, a, b, c, d);
	printf("   0x%08x 0x%02x: eax=0x%08x ebx=0x%08x ecx=0x%08x edx=0x%08x\n", leaf, sub, a, b, c, d);
}

static unsigned sub_leaves(unsigned leaf)
{
	switch (leaf) {
	case 0xd:
		return 63;
	case 0x4:
	case 0x8000001d:
		return 8;
	case 0x7:
		return 3;
	}
	return 1;
}

static void show_from(unsigned first)
{
	unsigned last = __get_cpuid_max(first, NULL);

	for (unsigned leaf = first; last && leaf <= last && leaf - first < 0x40; leaf++)
		for (unsigned sub = 0; sub < sub_leaves(leaf); sub++)
			show(leaf, sub);
}

int main(void)
{
	puts("CPU 0:");
	show_from(0);
	show_from(0x80000000);
	return 0;
}
