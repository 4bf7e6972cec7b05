//! The terminal that this tool was started in: raw while a program's terminal stands in for it, and always put right again.
use rustix::{
    stdio::{stderr, stdin, stdout},
    termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr},
};
use shimos_abi::session::Window;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The settings to go back to.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

fn saved() -> MutexGuard<'static, Option<Termios>> {
    SAVED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The terminal is raw as long as this is held.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Makes the terminal of standard input raw: every key is passed on as it is.
    pub fn enter() -> std::io::Result<Raw> {
        let mut settings = tcgetattr(stdin())?;
        saved().get_or_insert_with(|| settings.clone());
        settings.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &settings)?;
        Ok(Raw(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal right, on any way out.
pub fn restore() {
    if let Some(settings) = saved().take() {
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &settings);
    }
}

/// Whether standard input is a terminal.
pub fn is_there() -> bool {
    isatty(stdin())
}

/// The size of the terminal's window, 24 lines of 80 characters if nobody knows.
pub fn window() -> Window {
    let known = [tcgetwinsize(stdin()), tcgetwinsize(stdout()), tcgetwinsize(stderr())];
    let size = known.into_iter().flatten().find(|size| size.ws_row != 0 && size.ws_col != 0);
    size.map_or(Window { rows: 24, columns: 80 }, |size| Window { rows: size.ws_row, columns: size.ws_col })
}
