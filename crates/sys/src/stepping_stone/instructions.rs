// SPDX-License-Identifier: Apache-2.0
//! The instructions of the stepping stone, for each architecture.
//!
//! They are data in our own binary and never run in it. Behind them the stone's image has: the
//! descriptor and the text's length, 32 bits each; the head of the message; the text. No register
//! but the stack pointer means anything when they begin.

#![expect(
    unsafe_code,
    reason = "instructions are unsafe, and their borders are symbols"
)]

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata.wolffia_stone, \"a\", @progbits",
    ".hidden wolffia_stone_begin",
    ".hidden wolffia_stone_end",
    ".globl wolffia_stone_begin",
    ".globl wolffia_stone_end",
    "wolffia_stone_begin:",
    "mov ebx, dword ptr [rip + 3f]",
    // fcntl(descriptor, F_SETFD, FD_CLOEXEC)
    "mov edi, ebx",
    "mov esi, 2",
    "mov edx, 1",
    "mov eax, 72",
    "syscall",
    "test eax, eax",
    "js 2f",
    // execve(argv[0], argv + 1, envp)
    "mov rax, qword ptr [rsp]",
    "mov rdi, qword ptr [rsp + 8]",
    "lea rsi, [rsp + 16]",
    "lea rdx, [rsp + rax*8 + 16]",
    "mov eax, 59",
    "syscall",
    // writev(descriptor, {head, errno, text}, 3)
    "2:",
    "neg eax",
    "push rax",
    "mov r8, rsp",
    "lea r9, [rip + 3f]",
    "mov ecx, dword ptr [r9 + 4]",
    "push rcx",
    "lea r10, [r9 + 10]",
    "push r10",
    "push 4",
    "push r8",
    "push 2",
    "lea r10, [r9 + 8]",
    "push r10",
    "mov rsi, rsp",
    "mov edx, 3",
    "mov edi, ebx",
    "mov eax, 20",
    "syscall",
    // exit_group(126)
    "mov edi, 126",
    "mov eax, 231",
    "syscall",
    ".balign 4, 0x90",
    "3:",
    "wolffia_stone_end:",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .rodata.wolffia_stone, \"a\", %progbits",
    ".hidden wolffia_stone_begin",
    ".hidden wolffia_stone_end",
    ".globl wolffia_stone_begin",
    ".globl wolffia_stone_end",
    ".balign 4",
    "wolffia_stone_begin:",
    "adr x19, 3f",
    "ldr w20, [x19]",
    // fcntl(descriptor, F_SETFD, FD_CLOEXEC)
    "mov w0, w20",
    "mov x1, #2",
    "mov x2, #1",
    "mov x8, #25",
    "svc #0",
    "tbnz w0, #31, 2f",
    // execve(argv[0], argv + 1, envp)
    "ldr x9, [sp]",
    "ldr x0, [sp, #8]",
    "add x1, sp, #16",
    "add x2, x1, x9, lsl #3",
    "mov x8, #221",
    "svc #0",
    // writev(descriptor, {head, errno, text}, 3)
    "2:",
    "neg w0, w0",
    "str x0, [sp, #-16]!",
    "mov x10, sp",
    "ldr w11, [x19, #4]",
    "add x12, x19, #10",
    "add x13, x19, #8",
    "mov x14, #4",
    "mov x15, #2",
    "stp x12, x11, [sp, #-16]!",
    "stp x10, x14, [sp, #-16]!",
    "stp x13, x15, [sp, #-16]!",
    "mov x1, sp",
    "mov x2, #3",
    "mov w0, w20",
    "mov x8, #66",
    "svc #0",
    // exit_group(126)
    "mov x0, #126",
    "mov x8, #94",
    "svc #0",
    "3:",
    "wolffia_stone_end:",
    ".popsection",
);

/// The instructions.
pub(super) fn bytes() -> &'static [u8] {
    unsafe extern "C" {
        static wolffia_stone_begin: u8;
        static wolffia_stone_end: u8;
    }
    let (begin, end) = (&raw const wolffia_stone_begin, &raw const wolffia_stone_end);
    // SAFETY: both symbols are borders of one read-only section, written above in this order, and
    // what is between them is initialised bytes.
    unsafe { std::slice::from_raw_parts(begin, end.addr() - begin.addr()) }
}
