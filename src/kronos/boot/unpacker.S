# The unpacker of a repacked kernel: source of the bytes in unpacker.py, which a test compares with this file.
#   as --64 unpacker.S -o unpacker.o && ld -Ttext 0x100000 unpacker.o -o unpacker && objcopy -O binary -j .text unpacker
#
# Entered as boot.rst's 32-bit protocol says: flat 4 GiB segments 0x10 and 0x18, paging and interrupts off,
# %esi -> boot_params. Leaves as its 64-bit protocol says: long mode, the first GiB mapped to itself, %rsi -> boot_params.
# Copies go by four bytes and not by `rep movsb`, which QEMU's emulation runs at a byte a turn, four times as slow. They
# write up to three bytes too many; what comes next overwrites those.

        .set    page, 0x101000                  # after this code: the packed kernel, page tables once that is spent
        .code32
        .globl  _start
_start: cld
        movl    $page, %esp                     # the stack grows down into the rest of this page
        movl    %esi, %ebp
        movl    (source), %esi
        movl    (target), %edi
block:  cmpl    (source_end), %esi
        jae     clear
        lodsl
        leal    (%esi,%eax), %edx               # where this block ends

# A sequence: token (literals << 4 | match - 4), more literals, the literals, distance, more match.
sequence:
        movzbl  (%esi), %ebx
        incl    %esi
        movl    %ebx, %ecx
        shrl    $4, %ecx
        jz      match
        cmpl    $15, %ecx
        jne     literals
1:      movzbl  (%esi), %eax
        incl    %esi
        addl    %eax, %ecx
        cmpl    $255, %eax
        je      1b
literals:
        movl    (%esi), %eax
        movl    %eax, (%edi)
        addl    $4, %esi
        addl    $4, %edi
        subl    $4, %ecx
        ja      literals
        addl    %ecx, %esi                      # back by what was too much
        addl    %ecx, %edi
        cmpl    %edx, %esi                      # a block's last sequence has literals only
        jae     block
match:  movzwl  (%esi), %eax
        addl    $2, %esi
        andl    $15, %ebx
        movl    %ebx, %ecx
        cmpl    $15, %ecx
        jne     2f
1:      movzbl  (%esi), %ebx
        incl    %esi
        addl    %ebx, %ecx
        cmpl    $255, %ebx
        je      1b
2:      addl    $4, %ecx
        pushl   %esi
        movl    %edi, %esi
        subl    %eax, %esi
        cmpl    $4, %eax                        # nearer than a word: each byte may depend on the one before
        jb      3f
1:      movl    (%esi), %eax
        movl    %eax, (%edi)
        addl    $4, %esi
        addl    $4, %edi
        subl    $4, %ecx
        ja      1b
        addl    %ecx, %edi
        popl    %esi
        jmp     sequence
3:      rep movsb
        popl    %esi
        jmp     sequence

# What the kernel expects as zeros. After a reset the memory still holds the last run's data.
clear:  xorl    %eax, %eax
1:      cmpl    (target_end), %edi
        jae     tables
        movl    %eax, (%edi)
        movl    %eax, 4(%edi)
        movl    %eax, 8(%edi)
        movl    %eax, 12(%edi)
        movl    %eax, 16(%edi)
        movl    %eax, 20(%edi)
        movl    %eax, 24(%edi)
        movl    %eax, 28(%edi)
        addl    $32, %edi
        jmp     1b

tables: movl    $page, %edi
        movl    $3*1024, %ecx
        rep stosl
        movl    $page+0x1003, (page)
        movl    $page+0x2003, (page+0x1000)
        movl    $page+0x2000, %edi
        movl    $0x83, %eax                     # 2 MiB, writable, present
1:      movl    %eax, (%edi)
        addl    $8, %edi
        addl    $0x200000, %eax
        cmpl    $0x40000083, %eax
        jne     1b
        movl    %cr4, %eax
        orl     $0x20, %eax                     # PAE
        movl    %eax, %cr4
        movl    $page, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx               # EFER
        rdmsr
        orl     $0x100, %eax                    # long mode
        wrmsr
        lgdt    (gdtr)
        movl    %cr0, %eax
        orl     $0x80000000, %eax               # paging
        movl    %eax, %cr0
        ljmp    $0x10, $long
        .code64
long:   movl    $0x18, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    %ebp, %esi
        movl    (entry), %eax
        jmp     *%rax
        .balign 8
gdt:    .quad   0, 0, 0x00af9a000000ffff, 0x00cf92000000ffff
gdtr:   .word   . - gdt - 1
        .long   gdt
        .balign 4
# Filled in by unpacker.code().
source: .long   0
source_end: .long 0
target: .long   0
target_end: .long 0
entry:  .long   0
