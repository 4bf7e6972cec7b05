//! The virtual console. A program's output is a stream of numbered bytes; the owner prints whole lines and drops bytes that it
//! has printed already, so that output released twice appears once.
mod owner;
mod packet;
mod sender;

pub use owner::{ConsoleOwner, inherit};
pub use sender::{ended, flush_unsent, is_done, kernel_line, receive, work, write};

/// Bytes of a program's output that may be on their way to the printer at a time; more than a line.
const WINDOW: usize = 8 * 1024;
