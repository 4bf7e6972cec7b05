//! memcpy and memset, which the compiler calls for everything that is larger than a few registers.
//!
//! Those that come with the compiler use string instructions. An emulator executes these one step at a time, and most
//! copies of a kernel are short: words in registers are faster there by a factor of two to ten, and not much slower
//! than anything else on a processor.
use core::arch::global_asm;

global_asm!(include_str!("copy.s"));
global_asm!(".global memcpy", ".set memcpy, shimos_memcpy", ".global memset", ".set memset, shimos_memset");
