/* A disk that says on COM1 and on the screen that it was booted, writes its own first sector to the second, and halts. */
        .code16
        .text
_start: cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7c00, %sp
        sti
        mov     $message, %si
next:   lodsb
        or      %al, %al
        jz      said
        push    %ax
        mov     $0x3f8, %dx
        outb    %al, %dx
        pop     %ax
        mov     $0x0e, %ah
        mov     $7, %bx
        int     $0x10
        jmp     next
said:   mov     $0x0301, %ax            # write one sector: cylinder 0, sector 2, head 0 of the first disk
        mov     $2, %cx
        mov     $0x80, %dx
        mov     $0x7c00, %bx
        int     $0x13
rest:   hlt
        jmp     rest
message: .asciz "booted from its disk\r\n"
        .org    510
        .word   0xaa55
