/* System calls without the C library, which may use vector registers around them. */
#ifndef SYSCALLS_H
#define SYSCALLS_H

#include <sys/syscall.h>

static inline long raw_syscall(long number, long a, long b, long c)
{
	long result;

	asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

#endif
