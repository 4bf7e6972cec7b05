//! memcpy, memmove, memset and memcmp, which the compiler calls for everything that is larger than a few registers.
//!
//! Those that come with the compiler use string instructions or go byte by byte. An emulator executes the former one step
//! at a time, and most copies of a kernel are short: words in registers are faster there by a factor of two to ten, and
//! not much slower than anything else on a processor.
use core::arch::global_asm;

global_asm!(include_str!("copy.s"));
global_asm!(
    ".global memcpy",
    ".set memcpy, shimos_memcpy",
    ".global memmove",
    ".set memmove, shimos_memmove",
    ".global memset",
    ".set memset, shimos_memset",
    ".global memcmp",
    ".set memcmp, shimos_memcmp",
    ".global bcmp",
    ".set bcmp, shimos_memcmp",
);
