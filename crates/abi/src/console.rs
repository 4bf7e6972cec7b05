//! What is written to the machine's console besides text.

/// What is before it on its line was cut: its writer died, or the machine was reset. ASCII calls this character CANCEL, "the data
/// preceding it is in error". Whoever takes the console begins with it, and all of a cut line of a program comes again.
pub const CUT: u8 = 0x18;
