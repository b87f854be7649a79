/* A guest that does what every kernel does first, and says on the serial line how far it came.

   A  protected mode           D  CPL 0: the hypervisor lets the guest's kernel be one
   B  paging and long mode     E  an exception, taken by the handler in the IDT
   C  64-bit code              F  CPUID a hundred times, then five timer interrupts that wake a halted CPU

   "ABCDEF!" is all of it; then it powers a q35 machine off. Multiboot loads it at 1 MiB, in 32 bits.
   probe.py has it as bytes: as --64 probe.S -o probe.o && ld -m elf_x86_64 -Ttext 0x100000 --oformat binary probe.o */
        .set    SERIAL, 0x3f8
        .set    POWER, 0x604            # q35: PM1a control; 0x2000 is S5
        .set    TABLES, 0x200000        # page tables, zeroed here

        .text
        .code32
        .globl  _start
        .set    FLAGS, 0x00010000       # multiboot: the addresses in the header count, this is a flat image
_start:
        .long   0x1badb002, FLAGS, -(0x1badb002 + FLAGS)
        .long   _start, _start, 0, 0, enter
enter:
        cld
        mov     $stack, %esp
        mov     $'A', %al
        call    say32
        mov     $TABLES, %edi           # one PML4, one PDPT, one page directory with 2 MiB pages
        mov     %edi, %cr3
        xor     %eax, %eax
        mov     $0xc00, %ecx
        rep stosl
        movl    $TABLES + 0x1003, TABLES
        movl    $TABLES + 0x2003, TABLES + 0x1000
        mov     $TABLES + 0x2000, %edi
        mov     $0x83, %eax
1:      mov     %eax, (%edi)
        add     $8, %edi
        add     $0x200000, %eax
        cmp     $0x1000083, %eax        # the first 16 MiB
        jne     1b
        mov     %cr4, %eax
        or      $0x20, %eax             # PAE
        mov     %eax, %cr4
        mov     $0xc0000080, %ecx       # EFER.LME
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     %cr0, %eax
        or      $0x80000000, %eax       # PG
        mov     %eax, %cr0
        mov     $'B', %al
        call    say32
        lgdt    gdt_pointer
        ljmp    $8, $long

say32:  push    %edx
        mov     $SERIAL, %dx
        out     %al, %dx
        pop     %edx
        ret

        .code64
long:   mov     $16, %eax
        mov     %eax, %ss
        mov     %eax, %ds
        mov     %eax, %es
        mov     $'C', %al
        call    say
        mov     %cs, %eax               # a guest kernel pushed out of ring 0 sees it here
        test    $3, %al
        jnz     halt
        mov     $'D', %al
        call    say

        lea     breakpoint(%rip), %rax
        mov     $3, %ebx
        call    gate
        lea     tick(%rip), %rax
        mov     $32, %ebx
        call    gate
        lidt    idt_pointer(%rip)
        int3                            # its handler prints E
        mov     $0x11, %al              # the PIC: IRQ 0 is vector 32, all others masked
        out     %al, $0x20
        mov     $0x20, %al
        out     %al, $0x21
        mov     $4, %al
        out     %al, $0x21
        mov     $1, %al
        out     %al, $0x21
        mov     $0xfe, %al
        out     %al, $0x21
        mov     $0x34, %al              # the PIT: 1193182 / 11932 = 100 Hz
        out     %al, $0x43
        mov     $0x9c, %al
        out     %al, $0x40
        mov     $0x2e, %al
        out     %al, $0x40
        mov     $100, %esi
2:      xor     %eax, %eax              # leaves to the hypervisor and back
        xor     %ecx, %ecx
        cpuid
        dec     %esi
        jnz     2b
        sti
3:      hlt
        cmpl    $5, ticks(%rip)
        jb      3b
        cli
        mov     $'F', %al
        call    say
        mov     $'!', %al
        call    say
        mov     $'\n', %al
        call    say
        mov     $POWER, %dx
        mov     $0x2000, %ax
        out     %ax, %dx
halt:   cli
        hlt
        jmp     halt

say:    mov     $SERIAL, %dx
        out     %al, %dx
        ret

gate:   shl     $4, %ebx                # IDT entry ebx: handler rax, code segment 8, interrupt gate
        lea     TABLES + 0x3000(%rbx), %rbx
        movw    %ax, (%rbx)
        movw    $8, 2(%rbx)
        movw    $0x8e00, 4(%rbx)
        shr     $16, %eax
        movw    %ax, 6(%rbx)
        movq    $0, 8(%rbx)
        ret

breakpoint:
        push    %rax
        push    %rdx
        mov     $'E', %al
        call    say
        pop     %rdx
        pop     %rax
        iretq

tick:   push    %rax
        incl    ticks(%rip)
        mov     $0x20, %al
        out     %al, $0x20
        pop     %rax
        iretq

        .balign 8
gdt:    .quad   0, 0x00af9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
        .word   23
        .long   gdt
idt_pointer:
        .word   33 * 16 - 1
        .quad   TABLES + 0x3000
ticks:  .long   0
        .skip   256
stack:
