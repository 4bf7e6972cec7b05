    .text
    .balign 16
    .global shimos_memcpy
    # RDI: to, RSI: from, RDX: bytes. Returns RDI in RAX. They do not overlap.
shimos_memcpy:
    mov rax, rdi
    cmp rdx, 16
    jb 5f
    cmp rdx, 64
    jb 3f
2:  mov rcx, [rsi]
    mov r8, [rsi + 8]
    mov r9, [rsi + 16]
    mov r10, [rsi + 24]
    mov [rdi], rcx
    mov [rdi + 8], r8
    mov [rdi + 16], r9
    mov [rdi + 24], r10
    mov rcx, [rsi + 32]
    mov r8, [rsi + 40]
    mov r9, [rsi + 48]
    mov r10, [rsi + 56]
    mov [rdi + 32], rcx
    mov [rdi + 40], r8
    mov [rdi + 48], r9
    mov [rdi + 56], r10
    add rsi, 64
    add rdi, 64
    sub rdx, 64
    cmp rdx, 64
    jae 2b
    cmp rdx, 16
    jb 5f
    # 16 to 63 left: pairs of words, then the last 16 bytes, which may be copied twice.
3:  mov rcx, [rsi + rdx - 16]
    mov r8, [rsi + rdx - 8]
    lea r11, [rdi + rdx - 16]
4:  mov r9, [rsi]
    mov r10, [rsi + 8]
    mov [rdi], r9
    mov [rdi + 8], r10
    add rsi, 16
    add rdi, 16
    sub rdx, 16
    cmp rdx, 16
    ja 4b
    mov [r11], rcx
    mov [r11 + 8], r8
    ret
    # 0 to 15 left.
5:  cmp edx, 8
    jb 6f
    mov rcx, [rsi]
    mov r8, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + rdx - 8], r8
    ret
6:  cmp edx, 4
    jb 7f
    mov ecx, [rsi]
    mov r8d, [rsi + rdx - 4]
    mov [rdi], ecx
    mov [rdi + rdx - 4], r8d
    ret
7:  test edx, edx
    jz 8f
    movzx ecx, byte ptr [rsi]
    movzx r8d, byte ptr [rsi + rdx - 1]
    mov r9, rdx
    shr r9, 1
    movzx r10d, byte ptr [rsi + r9]
    mov [rdi], cl
    mov [rdi + r9], r10b
    mov [rdi + rdx - 1], r8b
8:  ret

    .balign 16
    .global shimos_memset
    # RDI: to, ESI: the byte, RDX: bytes. Returns RDI in RAX.
shimos_memset:
    mov r9, rdi
    movzx eax, sil
    mov rcx, 0x0101010101010101
    imul rcx, rax
    mov rax, r9
    cmp rdx, 64
    jb 3f
2:  mov [rdi], rcx
    mov [rdi + 8], rcx
    mov [rdi + 16], rcx
    mov [rdi + 24], rcx
    mov [rdi + 32], rcx
    mov [rdi + 40], rcx
    mov [rdi + 48], rcx
    mov [rdi + 56], rcx
    add rdi, 64
    sub rdx, 64
    cmp rdx, 64
    jae 2b
3:  cmp edx, 8
    jb 5f
    # 8 to 63 left: the last word first, which may be written twice.
    mov [rdi + rdx - 8], rcx
4:  mov [rdi], rcx
    add rdi, 8
    sub edx, 8
    cmp edx, 8
    ja 4b
    ret
5:  cmp edx, 4
    jb 6f
    mov [rdi], ecx
    mov [rdi + rdx - 4], ecx
    ret
6:  test edx, edx
    jz 7f
    mov r8, rdx
    shr r8, 1
    mov [rdi], cl
    mov [rdi + r8], cl
    mov [rdi + rdx - 1], cl
7:  ret

    .balign 16
    .global shimos_memmove
    # As shimos_memcpy, but they may overlap. Copying upwards is right unless the target begins within the source.
shimos_memmove:
    mov rax, rdi
    sub rax, rsi
    cmp rax, rdx
    jae shimos_memcpy
    mov rax, rdi
    cmp rdx, 32
    jb 3f
    # Downwards, from the last bytes on.
2:  mov rcx, [rsi + rdx - 8]
    mov r8, [rsi + rdx - 16]
    mov r9, [rsi + rdx - 24]
    mov r10, [rsi + rdx - 32]
    mov [rdi + rdx - 8], rcx
    mov [rdi + rdx - 16], r8
    mov [rdi + rdx - 24], r9
    mov [rdi + rdx - 32], r10
    sub rdx, 32
    cmp rdx, 32
    jae 2b
    # 0 to 31 left: all are read before the first is written.
3:  cmp edx, 16
    jb shimos_memcpy
    mov rcx, [rsi]
    mov r8, [rsi + 8]
    mov r9, [rsi + rdx - 16]
    mov r10, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + 8], r8
    mov [rdi + rdx - 16], r9
    mov [rdi + rdx - 8], r10
    ret

    .balign 16
    .global shimos_memcmp
    # RDI, RSI: bytes, RDX: how many. Returns in EAX: below, above or 0 as the first difference says.
shimos_memcmp:
    cmp rdx, 8
    jb 4f
2:  mov rax, [rdi]
    mov rcx, [rsi]
    cmp rax, rcx
    jne 3f
    add rdi, 8
    add rsi, 8
    sub rdx, 8
    cmp rdx, 8
    jae 2b
    test edx, edx
    jz 7f
    # 1 to 7 left: the last word, of which some bytes are known to be the same.
    mov rax, [rdi + rdx - 8]
    mov rcx, [rsi + rdx - 8]
    cmp rax, rcx
    je 7f
3:  bswap rax
    bswap rcx
    cmp rax, rcx
    sbb eax, eax
    or eax, 1
    ret
    # 0 to 7 in all.
4:  cmp edx, 4
    jb 6f
    mov eax, [rdi]
    mov ecx, [rsi]
    cmp eax, ecx
    jne 5f
    mov eax, [rdi + rdx - 4]
    mov ecx, [rsi + rdx - 4]
    cmp eax, ecx
    je 7f
5:  bswap eax
    bswap ecx
    cmp eax, ecx
    sbb eax, eax
    or eax, 1
    ret
6:  test edx, edx
    jz 7f
    movzx eax, byte ptr [rdi]
    movzx ecx, byte ptr [rsi]
    sub eax, ecx
    jne 8f
    inc rdi
    inc rsi
    dec edx
    jmp 6b
7:  xor eax, eax
8:  ret
