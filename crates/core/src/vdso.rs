//! The clocks without a system call: a small ELF image that is mapped into every process (vdso(7)).
//!
//! The machine's clock is the time-stamp counter times a factor, and the wall clock is that plus a constant. Factor and
//! constants are boot facts, the same for all kernels of the machine, so the image holds them and never changes: what a
//! program reads here stays right when another kernel takes it over, and is what the system call says.
use alloc::vec::Vec;
use shimos_hal::UserClock;

/// Bytes of the image: one page.
const SIZE: usize = 4096;
/// Where the three numbers lie: the counter at time 0, nanoseconds of a tick times 2^32, the wall clock at time 0.
const DATA: usize = 0x400;
/// Where the code lies.
const CODE: usize = DATA + 64;
/// Where the dynamic section lies.
const DYNAMIC: usize = 0x300;
const PROGRAM_HEADERS: usize = 0x40;
const SYMBOLS: usize = 0x100;
/// Which version each symbol has, and what the versions are called: who finds no versions may trust in their being there.
const VERSIONS: usize = 0x180;
const DEFINITIONS: usize = 0x190;
const HASH: usize = 0x200;
const STRINGS: usize = 0x240;

const SONAME: &[u8] = b"linux-vdso.so.1";
/// The version of all functions (vdso(7)).
const VERSION: &[u8] = b"LINUX_2.6";
/// The functions: names, places in the code, bytes.
const FUNCTIONS: [(&[u8], usize, usize); 4] = [
    (b"__vdso_clock_gettime", 0x00, 0x3c),
    (b"__vdso_gettimeofday", 0x40, 0x35),
    (b"__vdso_time", 0x80, 0x15),
    (b"__vdso_getcpu", 0xa0, 0x11),
];

/// The code. It refers to the numbers before it; clocks that it does not know, and a time zone, it leaves to the system
/// call.
#[rustfmt::skip]
const CODE_BYTES: [u8; 0xf3] = [
    // clock_gettime(RDI: clock, RSI: time)
    0x89, 0xf9, // mov ecx,edi
    0x83, 0xff, 0x07, // cmp edi,0x7
    0x77, 0x2d, // ja 0x34
    0xb8, 0xf3, 0x00, 0x00, 0x00, // mov eax,0xf3
    0x0f, 0xa3, 0xc8, // bt eax,ecx
    0x73, 0x23, // jae 0x34
    0x45, 0x31, 0xc0, // xor r8d,r8d
    0xb8, 0x21, 0x00, 0x00, 0x00, // mov eax,0x21
    0x0f, 0xa3, 0xc8, // bt eax,ecx
    0x73, 0x07, // jae 0x25
    0x4c, 0x8b, 0x05, 0xab, 0xff, 0xff, 0xff, // mov r8,QWORD PTR [rip - WALL]
    0xe8, 0x96, 0x00, 0x00, 0x00, // call now
    0x48, 0x89, 0x06, // mov QWORD PTR [rsi],rax
    0x48, 0x89, 0x56, 0x08, // mov QWORD PTR [rsi+0x8],rdx
    0x31, 0xc0, // xor eax,eax
    0xc3, // ret
    0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax,0xe4
    0x0f, 0x05, // syscall
    0xc3, // ret
    0xcc, 0xcc, 0xcc, 0xcc,
    // gettimeofday(RDI: time, RSI: zone)
    0x48, 0x85, 0xf6, // test rsi,rsi
    0x75, 0x28, // jne 0x6d
    0x48, 0x85, 0xff, // test rdi,rdi
    0x74, 0x20, // je 0x6a
    0x4c, 0x8b, 0x05, 0x7f, 0xff, 0xff, 0xff, // mov r8,QWORD PTR [rip - WALL]
    0xe8, 0x6a, 0x00, 0x00, 0x00, // call now
    0x48, 0x89, 0x07, // mov QWORD PTR [rdi],rax
    0x48, 0x89, 0xd0, // mov rax,rdx
    0x31, 0xd2, // xor edx,edx
    0xb9, 0xe8, 0x03, 0x00, 0x00, // mov ecx,0x3e8
    0x48, 0xf7, 0xf1, // div rcx
    0x48, 0x89, 0x47, 0x08, // mov QWORD PTR [rdi+0x8],rax
    0x31, 0xc0, // xor eax,eax
    0xc3, // ret
    0xb8, 0x60, 0x00, 0x00, 0x00, // mov eax,0x60
    0x0f, 0x05, // syscall
    0xc3, // ret
    0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc,
    // time(RDI: seconds)
    0x4c, 0x8b, 0x05, 0x49, 0xff, 0xff, 0xff, // mov r8,QWORD PTR [rip - WALL]
    0xe8, 0x34, 0x00, 0x00, 0x00, // call now
    0x48, 0x85, 0xff, // test rdi,rdi
    0x74, 0x03, // je 0x94
    0x48, 0x89, 0x07, // mov QWORD PTR [rdi],rax
    0xc3, // ret
    0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc,
    // getcpu(RDI: processor, RSI: node)
    0x31, 0xc0, // xor eax,eax
    0x48, 0x85, 0xff, // test rdi,rdi
    0x74, 0x02, // je 0xa9
    0x89, 0x07, // mov DWORD PTR [rdi],eax
    0x48, 0x85, 0xf6, // test rsi,rsi
    0x74, 0x02, // je 0xb0
    0x89, 0x06, // mov DWORD PTR [rsi],eax
    0xc3, // ret
    0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc,
    // R8: nanoseconds to add. Gives seconds in RAX and nanoseconds in RDX.
    0x0f, 0xae, 0xe8, // lfence
    0x0f, 0x31, // rdtsc
    0x48, 0xc1, 0xe2, 0x20, // shl rdx,0x20
    0x48, 0x09, 0xd0, // or rax,rdx
    0x31, 0xd2, // xor edx,edx
    0x48, 0x2b, 0x05, 0xeb, 0xfe, 0xff, 0xff, // sub rax,QWORD PTR [rip - BASE]
    0x48, 0x0f, 0x42, 0xc2, // cmovb rax,rdx
    0x48, 0xf7, 0x25, 0xe8, 0xfe, 0xff, 0xff, // mul QWORD PTR [rip - SCALE]
    0x48, 0x0f, 0xac, 0xd0, 0x20, // shrd rax,rdx,0x20
    0x4c, 0x01, 0xc0, // add rax,r8
    0x31, 0xd2, // xor edx,edx
    0xb9, 0x00, 0xca, 0x9a, 0x3b, // mov ecx,0x3b9aca00
    0x48, 0xf7, 0xf1, // div rcx
    0xc3, // ret
];

/// An image that is being laid out.
struct Layout(Vec<u8>);

impl Layout {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
    fn put_words(&mut self, at: usize, words: &[u64]) {
        for (index, word) in words.iter().enumerate() {
            self.put(at + index * 8, &word.to_le_bytes());
        }
    }
    fn put_halves(&mut self, at: usize, halves: &[u32]) {
        for (index, half) in halves.iter().enumerate() {
            self.put(at + index * 4, &half.to_le_bytes());
        }
    }
}

/// The hash of a name in an ELF file (System V ABI, "Hash Table").
fn elf_hash(name: &[u8]) -> u32 {
    name.iter().fold(0, |hash: u32, byte| {
        let hash = (hash << 4).wrapping_add(u32::from(*byte));
        (hash ^ (hash >> 28 << 4)) & 0x0fff_ffff
    })
}

/// The image for a machine with this clock.
pub fn image(clock: UserClock) -> Vec<u8> {
    let mut layout = Layout(alloc::vec![0; SIZE]);
    // ELF header: 64 bits, little-endian, a shared object for x86-64 with two program headers.
    layout.put(0, b"\x7fELF\x02\x01\x01");
    layout.put_halves(16, &[3 | 62 << 16, 1]);
    layout.put_words(24, &[0, PROGRAM_HEADERS as u64, 0]);
    layout.put_halves(48, &[0, 64 | 56 << 16, 2, 0]);
    // PT_LOAD, readable and executable; PT_DYNAMIC, readable.
    let whole = SIZE as u64;
    layout.put_words(PROGRAM_HEADERS, &[1 | 5 << 32, 0, 0, 0, whole, whole, whole]);
    let (at, len) = (DYNAMIC as u64, 10 * 16);
    layout.put_words(PROGRAM_HEADERS + 56, &[2 | 4 << 32, at, at, at, len, len, 8]);
    let mut names: Vec<u8> = alloc::vec![0];
    let mut name = |text: &[u8]| {
        let at = names.len() as u64;
        names.extend_from_slice(text);
        names.push(0);
        at
    };
    let soname = name(SONAME);
    for (index, (text, at, len)) in FUNCTIONS.into_iter().enumerate() {
        // A global function in some section.
        let word = name(text) | 0x12 << 32 | 1 << 48;
        layout.put_words(SYMBOLS + (index + 1) * 24, &[word, (CODE + at) as u64, len as u64]);
    }
    // Versions: 1 is that of the image, 2 that of every function.
    let version = name(VERSION);
    layout.put_halves(VERSIONS, &[2 << 16, 2 | 2 << 16, 2]);
    let definitions = [(1, 1, SONAME, soname, 28), (0, 2, VERSION, version, 0)];
    for (index, (flags, number, text, at, next)) in definitions.into_iter().enumerate() {
        let definition = [1 | flags << 16, number | 1 << 16, elf_hash(text), 20, next, at as u32, 0];
        layout.put_halves(DEFINITIONS + index * 28, &definition);
    }
    // One bucket that all symbols chain from.
    layout.put_halves(HASH, &[1, FUNCTIONS.len() as u32 + 1, 1, 0, 2, 3, 4, 0]);
    layout.put(STRINGS, &names);
    // DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_SONAME, then the versions.
    let (hash, strings, symbols) = (HASH as u64, STRINGS as u64, SYMBOLS as u64);
    let size = names.len() as u64;
    layout.put_words(DYNAMIC, &[4, hash, 5, strings, 6, symbols, 10, size, 11, 24, 14, soname]);
    // DT_VERSYM, DT_VERDEF, DT_VERDEFNUM, DT_NULL.
    let (versions, definitions) = (VERSIONS as u64, DEFINITIONS as u64);
    let words = [0x6fff_fff0, versions, 0x6fff_fffc, definitions, 0x6fff_fffd, 2, 0, 0];
    layout.put_words(DYNAMIC + 6 * 16, &words);
    layout.put_words(DATA, &[clock.base, clock.scale, clock.wall]);
    layout.put(CODE, &CODE_BYTES);
    layout.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_do_not_overlap_and_say_where_the_functions_are() {
        let image = image(UserClock { base: 7, scale: 8, wall: 9 });
        let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().expect("inside"));
        let half = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().expect("inside"));
        assert_eq!(image.len(), SIZE);
        const { assert!(PROGRAM_HEADERS + 2 * 56 <= SYMBOLS && SYMBOLS + 5 * 24 <= VERSIONS && HASH + 32 <= STRINGS) };
        const { assert!(VERSIONS + 10 <= DEFINITIONS && DEFINITIONS + 2 * 28 <= HASH) };
        assert!(STRINGS + 120 <= DYNAMIC && DYNAMIC + 10 * 16 <= DATA && CODE + CODE_BYTES.len() <= SIZE);
        assert_eq!([word(DATA), word(DATA + 8), word(DATA + 16)], [7, 8, 9]);
        // What Linux's own image has for this name.
        assert_eq!(elf_hash(VERSION), 0x03ae_75f6);
        assert_eq!(half(DEFINITIONS + 28 + 8), elf_hash(VERSION));
        for (index, (name, at, len)) in FUNCTIONS.into_iter().enumerate() {
            assert_eq!(&image[VERSIONS + (index + 1) * 2..][..2], [2, 0]);
            let symbol = SYMBOLS + (index + 1) * 24;
            let text = STRINGS + half(symbol) as usize;
            assert_eq!(&image[text..text + name.len() + 1], [name, b"\0"].concat());
            assert_eq!(word(symbol + 8) as usize, CODE + at);
            // Each function ends with RET, and nothing but padding follows.
            assert_eq!(image[CODE + at + len - 1], 0xc3);
            assert!(matches!(image[CODE + at + len], 0xcc | 0x0f));
        }
    }
}
