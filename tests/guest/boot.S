/*
 * Runs sim/calibrate/guest_code.c on a bare PC, as emulators are: a boot sector that goes to 64-bit mode, and bare(), which
 * calls run_rows() once, writes struct guest_shared to port 0xe9 (QEMU -debugcon, Bochs port_e9_hack) and ends the machine.
 *
 * The disk: this sector, CODE_BYTES that belong to CODE_AT, and ROWS_BYTES that belong to SHARED_AT (tests/test_calibrate_guest.py).
 *
 * Intel SDM vol. 3 sections 4.5 (4-level paging), 10.8.5 (initialising IA-32e mode); from real mode at once, with PE and PG.
 */
#include "guest.h"

#define CODE_BYTES 0x8000
#define ROWS_BYTES 0x5000
#define LOADED_AT 0x20000
#define SECTOR 512
#define SHARED_BYTES (40 + ROWS_MAX * (9 + 7) * 8)

	.section .boot, "ax"
	.code16
boot:
	cli
	xor	%ax, %ax
	mov	%ax, %ds
	mov	%ax, %es
	mov	%ax, %ss
	mov	$0x7c00, %sp
	mov	$packet, %si
	mov	$0x42, %ah		/* extended read, drive in DL */
	int	$0x13
	jc	.
	cli				/* a BIOS may return with interrupts on */
	in	$0x92, %al		/* A20 */
	or	$2, %al
	and	$0xfe, %al
	out	%al, $0x92

	mov	$(TABLES_AT >> 4), %ax
	mov	%ax, %es
	xor	%di, %di
	xor	%eax, %eax
	mov	$(3 * 4096 / 4), %cx
	rep stosl
	movl	$(TABLES_AT + 0x1003), %es:0
	movl	$(TABLES_AT + 0x2003), %es:0x1000
	mov	$0x2000, %di
	mov	$0x83, %eax
	mov	$512, %cx
1:	mov	%eax, %es:(%di)
	add	$0x200000, %eax
	add	$8, %di
	loop	1b

	lgdt	table
	mov	$0x20, %eax		/* PAE */
	mov	%eax, %cr4
	mov	$TABLES_AT, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx	/* EFER.LME */
	rdmsr
	or	$0x100, %eax
	wrmsr
	mov	%cr0, %eax
	or	$0x80000001, %eax	/* PG, PE */
	mov	%eax, %cr0
	ljmpl	$8, $2f

	.code64
2:	mov	$16, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	cld
	mov	$LOADED_AT, %esi
	mov	$CODE_AT, %edi
	mov	$CODE_BYTES, %ecx
	rep movsb
	mov	$SHARED_AT, %edi
	mov	$ROWS_BYTES, %ecx
	rep movsb
	mov	$bare, %eax
	jmp	*%rax

	.balign	8
segments_of_boot:
	.quad	0, 0x00af9b000000ffff, 0x00cf93000000ffff
table:
	.word	23
	.long	segments_of_boot
packet:
	.word	16, (CODE_BYTES + ROWS_BYTES) / SECTOR, 0, LOADED_AT >> 4
	.quad	1

	.text
	.globl	bare
bare:
	mov	$0x90000, %esp
	call	run_rows
	mov	$results, %esi
	mov	$8, %ecx
	mov	$0xe9, %edx
	rep outsb
	mov	$SHARED_AT, %esi
	mov	$SHARED_BYTES, %ecx
	rep outsb
	out	%al, $0xf4		/* QEMU, isa-debug-exit */
	mov	$shutdown, %esi
	mov	$8, %ecx
	mov	$0x8900, %edx		/* Bochs */
	rep outsb
	cli
	hlt
results:
	.ascii	"RESULTS:"
shutdown:
	.ascii	"Shutdown"
	.section .note.GNU-stack, "", @progbits
