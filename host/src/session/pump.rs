//! A session at work: threads that carry the command's input, its output and the signals.
use super::Session;
use crate::{
    signals::{self, Taken},
    terminal,
};
use anyhow::{Context, Result, anyhow};
use rustix::process::{Signal, getpid, kill_process};
use shimos_abi::session::{Begin, Credit, Ending, Frame, MAX_DATA, Stream, WINDOW, encode};
use signal_hook::consts::{SIGCONT, SIGSTOP, SIGTSTP, SIGWINCH};
use std::{
    fs::File,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
};

/// Bytes dealt with are told when so many have come together.
const TELL: u32 = WINDOW / 8;
/// Bytes of output that are kept in a program's log.
const LOGGED: usize = 64 << 20;

/// What a command's streams are here.
#[derive(Debug)]
pub struct Streams {
    /// Bytes for its standard input.
    pub input: File,
    /// For its standard output.
    pub output: File,
    /// For its standard error.
    pub errors: File,
    /// For both, as they come.
    pub log: Option<File>,
}

impl Streams {
    /// Those of this process.
    pub fn own(log: Option<File>) -> Result<Streams> {
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
        Ok(Streams {
            input: copy(io::stdin().as_fd())?,
            output: copy(io::stdout().as_fd())?,
            errors: copy(io::stderr().as_fd())?,
            log,
        })
    }
}

/// How a session ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The command has ended.
    Ended(Ending),
    /// It could not be run; the status that a shell would give.
    Failed(String, u8),
    /// The connection broke.
    Lost,
}

/// Sends frames, from any thread.
#[derive(Clone)]
struct Sender(Arc<Mutex<TcpStream>>);

impl Sender {
    fn send(&self, frame: &Frame) -> io::Result<()> {
        let bytes = encode(frame).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&bytes)
    }
}

/// Room for the command's input.
#[derive(Default)]
struct Room {
    /// What may be sent, and whether nobody takes it any more.
    state: Mutex<(Credit, bool)>,
    changed: Condvar,
}

impl Room {
    fn state(&self) -> MutexGuard<'_, (Credit, bool)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room; none when nobody takes input any more.
    fn wait(&self) -> Option<usize> {
        let mut state = self.state();
        loop {
            match *state {
                (_, true) => return None,
                (credit, false) if credit.room() > 0 => return Some(credit.room()),
                _ => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// A log that several streams write, and how much is in it.
type Log = Arc<Mutex<(File, usize)>>;

/// One of the command's output streams here.
struct Shown {
    stream: Stream,
    credit: Credit,
    pass: mpsc::Sender<Vec<u8>>,
    dealt: Arc<Mutex<u32>>,
    thread: JoinHandle<()>,
}

impl Session {
    /// Runs a command to its end.
    pub fn run(mut self, begin: Begin, streams: Streams, signals: Taken) -> Result<Outcome> {
        let raw = begin.terminal.is_some() && terminal::is_there();
        let frame = encode(&Frame::Begin(begin)).map_err(|error| anyhow!("the command line is too long: {error}"))?;
        self.stream.write_all(&frame).context("the agent inside went away")?;
        let guard = if raw { Some(terminal::Raw::enter().context("the terminal cannot be made raw")?) } else { None };
        let sender = Sender(Arc::new(Mutex::new(self.stream.try_clone()?)));
        let room = Arc::new(Room::default());
        let Streams { input, output, errors, log } = streams;
        {
            let (sender, room) = (sender.clone(), Arc::clone(&room));
            thread::spawn(move || feed(input, &sender, &room));
        }
        {
            let sender = sender.clone();
            thread::spawn(move || pass_on(&signals, raw, &sender));
        }
        let log = log.map(|file| Arc::new(Mutex::new((file, 0))));
        let mut shown = [(Stream::Output, output), (Stream::Errors, errors)]
            .map(|(stream, file)| Shown::start(stream, file, sender.clone(), log.clone()));
        let outcome = self.listen(&room, &mut shown);
        // What was said is shown to its end, however long its reader takes.
        for Shown { pass, thread, .. } in shown {
            drop(pass);
            let _ = thread.join();
        }
        let _ = self.stream.shutdown(Shutdown::Both);
        signals::release();
        drop(guard);
        outcome
    }

    /// Takes what the agent says until it says the end.
    fn listen(&mut self, room: &Room, shown: &mut [Shown; 2]) -> Result<Outcome> {
        let mut buffer = vec![0; MAX_DATA];
        loop {
            while let Some(frame) = self.receiver.take().context("the agent inside sent what it must not")? {
                match frame {
                    Frame::Data(stream, bytes) => {
                        let Some(to) = shown.iter_mut().find(|shown| shown.stream == stream) else { continue };
                        to.take(bytes).context("the agent inside sent what it must not")?;
                    }
                    Frame::Taken(Stream::Input, count) => {
                        room.state().0.refund(count).context("the agent inside sent what it must not")?;
                        room.changed.notify_all();
                    }
                    Frame::Refused(Stream::Input) => {
                        room.state().1 = true;
                        room.changed.notify_all();
                    }
                    Frame::Exit(ending) => return Ok(Outcome::Ended(ending)),
                    Frame::Failed(why, code) => return Ok(Outcome::Failed(why, code)),
                    // The end of a stream says nothing that the end of the command does not say.
                    _ => {}
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Outcome::Lost),
                Ok(count) => self.receiver.feed(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(Outcome::Lost),
            }
        }
    }
}

impl Shown {
    fn start(stream: Stream, file: File, sender: Sender, log: Option<Log>) -> Shown {
        let (pass, bytes) = mpsc::channel();
        let dealt = Arc::new(Mutex::new(0));
        let told = Arc::clone(&dealt);
        let thread = thread::spawn(move || show(stream, file, &bytes, &sender, log.as_ref(), &told));
        Shown { stream, credit: Credit::default(), pass, dealt, thread }
    }

    /// Hands bytes to the thread that shows them; there are never more of them than a window.
    fn take(&mut self, bytes: Vec<u8>) -> Result<(), shimos_abi::session::Malformed> {
        let dealt = std::mem::take(&mut *self.dealt.lock().unwrap_or_else(PoisonError::into_inner));
        self.credit.refund(dealt)?;
        self.credit.spend(bytes.len())?;
        let _ = self.pass.send(bytes);
        Ok(())
    }
}

/// Writes what the command says, and tells the agent.
fn show(
    stream: Stream,
    mut file: File,
    bytes: &mpsc::Receiver<Vec<u8>>,
    sender: &Sender,
    log: Option<&Log>,
    dealt: &Mutex<u32>,
) {
    let (mut untold, mut open) = (0_u32, true);
    let mut next = bytes.recv().ok();
    while let Some(piece) = next {
        if open && write_whole(&mut file, &piece).is_err() {
            open = false;
            let _ = sender.send(&Frame::Refused(stream));
        }
        if let Some(log) = log {
            keep(log, &piece);
        }
        untold = untold.saturating_add(piece.len() as u32);
        next = bytes.try_recv().ok();
        if open && (untold >= TELL || next.is_none()) && untold > 0 {
            *dealt.lock().unwrap_or_else(PoisonError::into_inner) += untold;
            let _ = sender.send(&Frame::Taken(stream, untold));
            untold = 0;
        }
        if next.is_none() {
            next = bytes.recv().ok();
        }
    }
}

/// Adds to a log as long as there is room.
fn keep(log: &Log, piece: &[u8]) {
    let (file, size) = &mut *log.lock().unwrap_or_else(PoisonError::into_inner);
    if *size < LOGGED {
        let _ = file.write_all(piece);
        *size += piece.len();
        if *size >= LOGGED {
            let _ = file.write_all(b"\n(no more is kept here)\n");
        }
    }
}

/// Writes all of it, also to a descriptor that somebody else has made non-blocking.
fn write_whole(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_until(file, rustix::event::PollFlags::OUT);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_until(file: &File, flags: rustix::event::PollFlags) {
    let _ = rustix::event::poll(&mut [rustix::event::PollFd::new(file, flags)], None);
}

/// Carries input to the command, as far as there is room for it.
fn feed(mut input: File, sender: &Sender, room: &Room) {
    let mut buffer = vec![0; MAX_DATA];
    while let Some(most) = room.wait() {
        match input.read(buffer.get_mut(..most).unwrap_or_default()) {
            Ok(count @ 1..) => {
                let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                if room.state().0.spend(count).is_err() || sender.send(&Frame::Data(Stream::Input, bytes)).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_until(&input, rustix::event::PollFlags::IN);
            }
            Ok(0) | Err(_) => {
                let _ = sender.send(&Frame::End(Stream::Input));
                return;
            }
        }
    }
}

/// Passes signals on to the command. One that stops it stops this tool too: the shell that started it has the terminal then.
fn pass_on(signals: &Taken, raw: bool, sender: &Sender) {
    for number in &signals.numbers {
        let told = match number {
            SIGWINCH => sender.send(&Frame::Resize(terminal::window())),
            SIGTSTP => {
                // A raw terminal sends no such signal by itself: it was meant for the tool alone. Otherwise the command
                // stops as well; as nobody inside could let it go on, the signal that may be left unheeded would be.
                let told = if raw { Ok(()) } else { sender.send(&Frame::Signal(SIGSTOP as u8)) };
                terminal::restore();
                let _ = kill_process(getpid(), Signal::STOP);
                told
            }
            SIGCONT if raw => {
                if let Ok(again) = terminal::Raw::enter() {
                    // The session's own guard puts it right.
                    std::mem::forget(again);
                }
                sender.send(&Frame::Resize(terminal::window()))
            }
            _ => sender.send(&Frame::Signal(number as u8)),
        };
        if told.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use shimos_abi::session::Receiver;
    use std::net::TcpListener;

    /// A session and the connection of an agent that the test plays.
    fn pair() -> (Session, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let agent = TcpStream::connect(listener.local_addr().expect("address")).expect("connects");
        let (stream, _) = listener.accept().expect("accepts");
        (Session { stream, receiver: Receiver::default() }, agent)
    }

    struct Agent {
        stream: TcpStream,
        receiver: Receiver,
    }

    impl Agent {
        fn next(&mut self) -> Option<Frame> {
            let mut buffer = [0; 4096];
            loop {
                if let Some(frame) = self.receiver.take().expect("well formed") {
                    return Some(frame);
                }
                match self.stream.read(&mut buffer) {
                    Ok(count @ 1..) => self.receiver.feed(&buffer[..count]),
                    _ => return None,
                }
            }
        }
        fn say(&mut self, frame: &Frame) {
            self.stream.write_all(&encode(frame).expect("short")).expect("writes");
        }
    }

    fn pipe() -> (File, File) {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        (File::from(reader), File::from(writer))
    }

    fn made_up() -> (mpsc::Sender<i32>, Taken) {
        let (sender, numbers) = mpsc::channel();
        (sender, Taken { numbers })
    }

    #[test]
    fn bytes_go_both_ways_and_the_end_is_told() {
        let (session, stream) = pair();
        let (input, mut give) = pipe();
        let (mut out, output) = pipe();
        let (mut err, errors) = pipe();
        let (signal, taken) = made_up();
        let begin = Begin { argv: vec!["cat".to_string()], ..Begin::default() };
        let expected = begin.clone();
        let agent = thread::spawn(move || {
            let mut agent = Agent { stream, receiver: Receiver::default() };
            assert_eq!(agent.next(), Some(Frame::Begin(expected)));
            let mut got = Vec::new();
            loop {
                match agent.next().expect("goes on") {
                    Frame::Data(Stream::Input, bytes) => {
                        agent.say(&Frame::Data(Stream::Output, bytes.clone()));
                        got.extend(bytes);
                    }
                    Frame::End(Stream::Input) => break,
                    // What has gone all the way round makes room for more.
                    Frame::Taken(Stream::Output, count) => agent.say(&Frame::Taken(Stream::Input, count)),
                    Frame::Signal(15) => {}
                    other => panic!("{other:?}"),
                }
            }
            agent.say(&Frame::Data(Stream::Errors, b"told apart".to_vec()));
            agent.say(&Frame::Exit(Ending::Exited(7)));
            // The tool closes when it has heard the end.
            while agent.next().is_some() {}
            got
        });
        signal.send(15).expect("somebody listens");
        let streams = Streams { input, output, errors, log: None };
        let session = thread::spawn(move || session.run(begin, streams, taken));
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
        let copy = sent.clone();
        let writer = thread::spawn(move || give.write_all(&copy).expect("writes"));
        let mut got = Vec::new();
        out.read_to_end(&mut got).expect("reads");
        assert_eq!(got, sent);
        let mut told = String::new();
        err.read_to_string(&mut told).expect("reads");
        assert_eq!(told, "told apart");
        writer.join().expect("joins");
        assert_eq!(agent.join().expect("joins"), sent);
        assert_eq!(session.join().expect("joins").expect("ends"), Outcome::Ended(Ending::Exited(7)));
    }

    #[test]
    fn a_reader_that_goes_away_is_told_and_a_broken_connection_is_lost() {
        let (session, stream) = pair();
        let (input, _give) = pipe();
        let (out, output) = pipe();
        drop(out);
        let errors = output.try_clone().expect("copies");
        let (_signal, taken) = made_up();
        let agent = thread::spawn(move || {
            let mut agent = Agent { stream, receiver: Receiver::default() };
            assert!(matches!(agent.next(), Some(Frame::Begin(_))));
            agent.say(&Frame::Data(Stream::Output, b"for nobody".to_vec()));
            assert_eq!(agent.next(), Some(Frame::Refused(Stream::Output)));
        });
        let outcome = session.run(Begin::default(), Streams { input, output, errors, log: None }, taken);
        agent.join().expect("joins");
        assert_eq!(outcome.expect("ends"), Outcome::Lost);
    }

    #[test]
    fn an_agent_that_breaks_the_rules_is_an_error() {
        for frames in [vec![Frame::Taken(Stream::Input, 1)], vec![Frame::Data(Stream::Output, vec![0; MAX_DATA]); 18]] {
            let (session, stream) = pair();
            let (input, _give) = pipe();
            // Nobody reads: what is beyond the window cannot have been dealt with.
            let (out, output) = pipe();
            let errors = output.try_clone().expect("copies");
            let (_signal, taken) = made_up();
            let agent = thread::spawn(move || {
                let mut agent = Agent { stream, receiver: Receiver::default() };
                for frame in &frames {
                    let _ = agent.stream.write_all(&encode(frame).expect("short"));
                }
                // The tool does not wait for the reader for ever once it has found the fault.
                drop(out);
                while agent.next().is_some() {}
            });
            let outcome = session.run(Begin::default(), Streams { input, output, errors, log: None }, taken);
            assert!(outcome.is_err(), "{outcome:?}");
            agent.join().expect("joins");
        }
    }
}
