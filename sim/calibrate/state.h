/*
 * The state components of the calling thread: images of them, loading one, changing what is loaded, and what is in use.
 *
 * Intel SDM vol. 1 chapter 13 (XSAVE-managed state), vol. 2 (XRSTOR, XGETBV, CPUID leaf 0DH).  Everything that includes
 * this is compiled with -mgeneral-regs-only: the compiler itself must never touch a component.
 */
#ifndef STATE_H
#define STATE_H

#include <cpuid.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FP (1ull << 0)
#define SSE (1ull << 1)
#define YMM (1ull << 2)
#define OPMASK (1ull << 5)
#define ZMM_HI256 (1ull << 6)
#define HI16_ZMM (1ull << 7)
#define PKRU (1ull << 9)
#define XTILE_CFG (1ull << 17)
#define XTILE_DATA (1ull << 18)
#define COMPACTED (1ull << 63)

#define COMPONENTS 20
#define AREA_SIZE 16384
#define LEGACY_SIZE 512
#define ARCH_REQ_XCOMP_PERM 0x1023
#define LEAF_XSTATE 0xd

static uint32_t offset_of[COMPONENTS], size_of[COMPONENTS];

static inline uint64_t xgetbv(uint32_t number)
{
	uint32_t low, high;

	asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(number));
	return (uint64_t)high << 32 | low;
}

/* XINUSE, within XCR0. */
static inline uint64_t in_use(void)
{
	return xgetbv(1);
}

static inline void xrstor(const void *area, uint64_t rfbm)
{
	asm volatile("xrstor64 (%0)" : : "r"(area), "a"((uint32_t)rfbm), "d"((uint32_t)(rfbm >> 32)) : "memory");
}

static inline void xsavec(void *area, uint64_t rfbm)
{
	asm volatile("xsavec64 (%0)" : : "r"(area), "a"((uint32_t)rfbm), "d"((uint32_t)(rfbm >> 32)) : "memory");
}

static inline __attribute__((noreturn)) void die(const char *what)
{
	perror(what);
	exit(1);
}

/* Pages of its own, so that nothing else shares its lines. */
static inline void *pages(size_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (at == MAP_FAILED)
		die("mmap");
	return at;
}

/* Asks for AMX tiles (Linux Documentation/arch/x86/xstate.rst); without them XFD keeps them from being used. */
static inline uint64_t components_init(void)
{
	uint64_t xcr0 = xgetbv(0);
	uint32_t a, b, c, d;

	if (xcr0 & XTILE_DATA && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, 18))
		xcr0 &= ~XTILE_DATA;
	size_of[0] = 160;
	size_of[1] = 256;
	offset_of[1] = 160;
	for (int i = 2; i < COMPONENTS; i++) {
		if (!(xcr0 >> i & 1))
			continue;
		__cpuid_count(LEAF_XSTATE, i, a, b, c, d);
		size_of[i] = a;
		offset_of[i] = b;
		if (a + b > AREA_SIZE)
			xcr0 &= ~(1ull << i);
	}
	return xcr0;
}

/* An image in the standard format in which the components of `set` have values other than their initial ones. */
static inline void image(uint8_t *area, uint64_t set)
{
	const uint32_t mxcsr = 0x1f80;
	const uint16_t fcw = 0x37f;

	memset(area, 0, AREA_SIZE);
	for (int i = 1; i < COMPONENTS; i++)
		if (set >> i & 1)
			memset(area + offset_of[i], 0x11 + i, size_of[i]);
	memcpy(area, &fcw, sizeof(fcw));
	if (set & FP) {
		area[4] = 1;				/* FTW: ST0 holds a value */
		memset(area + 32, 0x3f, 10);
	}
	memcpy(area + 24, &mxcsr, sizeof(mxcsr));
	if (set & PKRU) {
		memset(area + offset_of[9], 0, size_of[9]);
		area[offset_of[9] + 3] = 0x40;		/* key 15 gives no access */
	}
	if (set & XTILE_CFG) {
		uint8_t *config = area + offset_of[17];

		memset(config, 0, size_of[17]);
		config[0] = 1;				/* palette 1: 8 tiles of 16 rows of 64 bytes */
		for (int tile = 0; tile < 8; tile++) {
			config[16 + 2 * tile] = 64;
			config[48 + tile] = 16;
		}
	}
	memcpy(area + LEGACY_SIZE, &set, sizeof(set));
}

/* Writes a register of each component of `set`, all of which are in use, and leaves them in use. */
static inline void touch(uint64_t set)
{
	if (set & HI16_ZMM)
		asm volatile(".byte 0x62,0xa1,0xfd,0x40,0xd4,0xc1");	/* vpaddq zmm16, zmm16, zmm17 */
	if (set & ZMM_HI256)
		asm volatile(".byte 0x62,0xf1,0xfd,0x48,0xd4,0xc1");	/* vpaddq zmm0, zmm0, zmm1 */
	else if (set & YMM)
		asm volatile(".byte 0xc5,0xfd,0xd4,0xc1");		/* vpaddq ymm0, ymm0, ymm1 */
	else if (set & SSE)
		asm volatile(".byte 0x66,0x0f,0xd4,0xc1");		/* paddq xmm0, xmm1 */
	if (set & OPMASK)
		asm volatile(".byte 0xc5,0xf4,0x45,0xca");		/* korw k1, k1, k2 */
	if (set & FP)
		asm volatile("fldz; fstp %%st(0)" : : );
	if (set & PKRU)
		asm volatile(".byte 0x0f,0x01,0xee; .byte 0x0f,0x01,0xef"	/* rdpkru; wrpkru */
			     : : "c"(0) : "eax", "edx");
	if (set & XTILE_DATA && set & XTILE_CFG)
		asm volatile(".byte 0xc4,0xe2,0x7b,0x49,0xc0");		/* tilezero tmm0 */
}

/* Back to what the C library takes for granted. */
static inline void clear_state(const void *nothing_in_use, uint64_t rfbm)
{
	xrstor(nothing_in_use, rfbm);
}

#endif
