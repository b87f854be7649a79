/* A guest of one page that does what it is told, for tests: it prints "ready", powers off when its power button is
   pressed, lets go every PCI device that the host wants back (ACPI PCI hotplug: QEMU's docs/specs/acpi_pci_hotplug), and
   echoes what it reads on the serial line, but for q (power off), r (reset) and p (panic). Between ticks of 100 Hz it
   halts. */
        .set    SERIAL, 0x3f8
        .set    STATUS, 0x600           # q35: PM1 event block, control block at +4
        .set    HOTPLUG, 0xcc0
        .set    FLAGS, 0x00010000
        .text
        .code32
_start: .long   0x1badb002, FLAGS, -(0x1badb002 + FLAGS)
        .long   _start, _start, 0, 0, enter
enter:  cld
        mov     $stack, %esp
        lgdt    gdt_pointer
        ljmp    $8, $1f
1:      mov     $16, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $tick, %eax
        mov     $idt + 32 * 8, %edi
        mov     %ax, (%edi)
        movw    $8, 2(%edi)
        movw    $0x8e00, 4(%edi)
        shr     $16, %eax
        mov     %ax, 6(%edi)
        lidt    idt_pointer
        mov     $pic, %esi              # port, value pairs: PIC vectors from 32 on, only IRQ 0; PIT at 100 Hz; no serial FIFO
2:      xor     %edx, %edx
        lodsw
        mov     %ax, %dx
        lodsb
        test    %dx, %dx
        jz      3f
        out     %al, %dx
        jmp     2b
3:      mov     $STATUS + 2, %dx        # let the power button show
        mov     $0x100, %ax
        out     %ax, %dx
        mov     $text, %esi
4:      lodsb
        test    %al, %al
        jz      idle
        call    say
        jmp     4b
idle:   sti
        hlt
        cli
        mov     $STATUS, %dx
        in      %dx, %ax
        test    $0x100, %ax
        jnz     off
        xor     %ebx, %ebx
5:      mov     %ebx, %eax
        mov     $HOTPLUG + 0x10, %dx    # select a bus
        out     %eax, %dx
        mov     $HOTPLUG + 4, %dx       # slots to give up
        in      %dx, %eax
        test    %eax, %eax
        jz      6f
        mov     $HOTPLUG + 8, %dx       # eject
        out     %eax, %dx
6:      inc     %ebx
        cmp     $40, %ebx
        jne     5b
        mov     $SERIAL + 5, %dx
        in      %dx, %al
        test    $1, %al
        jz      idle
        mov     $SERIAL, %dx
        in      %dx, %al
        cmp     $'q', %al
        je      off
        cmp     $'r', %al
        je      reset
        cmp     $'p', %al
        je      panic
        call    say
        jmp     idle
off:    mov     $STATUS + 4, %dx
        mov     $0x2000, %ax
        out     %ax, %dx
        jmp     idle
reset:  mov     $6, %al
        mov     $0xcf9, %dx
        out     %al, %dx
        jmp     idle
panic:  mov     $1, %al
        mov     $0x505, %dx
        out     %al, %dx
        jmp     idle
say:    mov     $SERIAL, %dx
        out     %al, %dx
        ret
tick:   push    %eax
        mov     $0x20, %al
        out     %al, $0x20
        pop     %eax
        iret
pic:    .word   0x20; .byte 0x11
        .word   0x21; .byte 0x20
        .word   0x21; .byte 4
        .word   0x21; .byte 1
        .word   0x21; .byte 0xfe
        .word   0x43; .byte 0x34
        .word   0x40; .byte 0x9c
        .word   0x40; .byte 0x2e
        .word   0; .byte 0
text:   .asciz  "ready\n"
        .balign 8
gdt:    .quad   0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
        .word   23
        .long   gdt
idt_pointer:
        .word   33 * 8 - 1
        .long   idt
        .balign 8
idt:    .skip   33 * 8
        .skip   256
stack:
