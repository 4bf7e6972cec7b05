//! One session: the connection to the tool, the command and its streams, in one loop around `poll`.
use crate::{
    child,
    streams::{Form, Sink, Source},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{self, Pid, Signal, WaitOptions, WaitStatus},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcgetpgrp, tcsetwinsize},
};
use shimos_abi::{
    ids::{Pid as ProcessId, ProgramId},
    session::{Begin, Ending, Frame, MAX_DATA, Malformed, Receiver, Stream, VERSION, Window, encode},
};
use signal_hook::iterator::{backend::SignalDelivery, exfiltrator::SignalOnly};
use std::{
    collections::VecDeque,
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

/// Attempts to reach the tool, and what lies between them.
const ATTEMPTS: (u32, Duration) = (20, Duration::from_millis(100));
/// How long the tool may take to say what to run.
const FIRST_WORDS: Duration = Duration::from_secs(20);
/// How long the tool may take to hear the end.
const LAST_WORDS: Duration = Duration::from_secs(20);
/// Bytes that may wait to be sent before the command's output is read no more.
const UNSENT: usize = 2 * MAX_DATA;
/// Signals that a program's first process passes on to the command.
const PASSED_ON: [Signal; 6] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2];

/// What the agent is in the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Its first process: the program ends with it.
    First,
    /// One that came later.
    Joined,
}

type Signals = SignalDelivery<UnixStream, SignalOnly>;

/// Serves one session; returns how the command ended.
pub fn serve(place: Place, address: &str, token: &str) -> io::Result<Ending> {
    let mut signals = watch_signals()?;
    let (socket, receiver, begin) = reach(address, token)?;
    socket.set_read_timeout(None)?;
    socket.set_nonblocking(true)?;
    let mut session = match start(place, &begin) {
        Ok(started) => Session::new(place, started, socket, receiver),
        Err(error) => {
            let failed = Frame::Failed(format!("the command cannot be started: {error}"), child::NOT_EXECUTABLE);
            return last_words(socket, encoded(&failed)?.into()).map(|()| Ending::Exited(child::NOT_EXECUTABLE));
        }
    };
    let ending = session.run(&mut signals)?;
    if let Some(socket) = session.socket.take() {
        session.say(&Frame::Exit(ending));
        // Who does not hear it is gone; the command ended all the same.
        let _ = last_words(socket, session.unsent);
    }
    Ok(ending)
}

fn encoded(frame: &Frame) -> io::Result<Vec<u8>> {
    encode(frame).map_err(invalid)
}

fn invalid(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

fn watch_signals() -> io::Result<Signals> {
    let (read, write) = UnixStream::pair()?;
    let numbers = PASSED_ON.iter().chain(&[Signal::CHILD]).map(|signal| signal.as_raw());
    SignalDelivery::with_pipe(read, write, SignalOnly, numbers.collect::<Vec<i32>>())
}

/// Reaches the tool and hears what is to be run. The connection may break before that, and then another one will do.
fn reach(address: &str, token: &str) -> io::Result<(TcpStream, Receiver, Begin)> {
    let mut last = io::ErrorKind::NotConnected.into();
    for _ in 0..ATTEMPTS.0 {
        match greet(address, token) {
            Err(error) if error.kind() != io::ErrorKind::InvalidData => last = error,
            reached => return reached,
        }
        sleep(ATTEMPTS.1);
    }
    Err(last)
}

fn greet(address: &str, token: &str) -> io::Result<(TcpStream, Receiver, Begin)> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.write_all(&encoded(&Frame::Hello { version: VERSION, token: token.to_string() })?)?;
    let mut receiver = Receiver::default();
    let begin = first_words(&mut socket, &mut receiver)?;
    Ok((socket, receiver, begin))
}

/// Waits for what is to be run.
fn first_words(socket: &mut TcpStream, receiver: &mut Receiver) -> io::Result<Begin> {
    let end = Instant::now() + FIRST_WORDS;
    let mut buffer = vec![0; MAX_DATA];
    loop {
        match receiver.take().map_err(invalid)? {
            Some(Frame::Begin(begin)) => return Ok(begin),
            Some(_) => return Err(invalid(Malformed::NotUnderstood)),
            None => {}
        }
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut buffer)? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the tool went away")),
            count => receiver.feed(buffer.get(..count).unwrap_or_default()),
        }
    }
}

/// Sends all that is left and waits until the tool has closed the connection: with the program its connections end too.
fn last_words(mut socket: TcpStream, mut unsent: VecDeque<u8>) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_write_timeout(Some(LAST_WORDS))?;
    socket.write_all(unsent.make_contiguous())?;
    let end = Instant::now() + LAST_WORDS;
    let mut buffer = vec![0; MAX_DATA];
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left))?;
        if socket.read(&mut buffer)? == 0 {
            break;
        }
    }
    Ok(())
}

/// A command that runs.
struct Started {
    pid: Pid,
    input: Sink,
    sources: Vec<Source>,
    /// The terminal, if there is one.
    terminal: Option<OwnedFd>,
}

/// Starts the command.
fn start(place: Place, begin: &Begin) -> io::Result<Started> {
    let form = if begin.terminal.is_some() { child::TERMINAL } else { child::PIPES };
    let mut command = Command::new(fs::read_link("/proc/self/exe")?);
    command.args(["child", form]);
    command.args([begin.cwd.as_deref().unwrap_or_default(), begin.user.as_deref().unwrap_or_default()]);
    command.args(&begin.argv);
    if place == Place::Joined
        && let Some(variables) = first_environment()
    {
        command.env_clear().envs(variables);
    }
    command.envs(begin.env.iter().filter_map(|variable| variable.split_once('=')));
    let flags = PipeFlags::CLOEXEC;
    let (input, sources, terminal) = match begin.terminal {
        Some(window) => {
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
            grantpt(&master)?;
            unlockpt(&master)?;
            resize(&master, window)?;
            let slave = ptsname(&master, Vec::new())?;
            let slave = rustix::fs::open(slave, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
            command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
            unblock(&master)?;
            let sources = vec![Source::new(Stream::Output, master.try_clone()?)];
            (Sink::new(master.try_clone()?, Form::Terminal), sources, Some(master))
        }
        None => {
            let (input, output, errors) = (pipe_with(flags)?, pipe_with(flags)?, pipe_with(flags)?);
            for ours in [&input.1, &output.0, &errors.0] {
                unblock(ours)?;
            }
            command.stdin(input.0).stdout(output.1).stderr(errors.1);
            let sources = vec![Source::new(Stream::Output, output.0), Source::new(Stream::Errors, errors.0)];
            (Sink::new(input.1, Form::Pipe), sources, None)
        }
    };
    // Nothing waits for this child by its handle: the loop waits for all children.
    let pid = Pid::from_raw(command.spawn()?.id() as i32).ok_or(Errno::SRCH)?;
    Ok(Started { pid, input, sources, terminal })
}

fn unblock(fd: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?)
}

fn resize(terminal: &OwnedFd, window: Window) -> io::Result<()> {
    let size = Winsize { ws_row: window.rows, ws_col: window.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

/// The environment that the program began with.
fn first_environment() -> Option<Vec<(String, String)>> {
    let first = ProgramId::of(ProcessId(std::process::id())).first_pid();
    let bytes = fs::read(format!("/proc/{first}/environ")).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let variables = text.split('\0').filter_map(|variable| variable.split_once('='));
    Some(variables.map(|(name, value)| (name.to_string(), value.to_string())).collect())
}

/// The state of a session.
struct Session {
    place: Place,
    /// The connection, while the tool is there.
    socket: Option<TcpStream>,
    receiver: Receiver,
    unsent: VecDeque<u8>,
    command: Started,
    ended: Option<Ending>,
    buffer: Vec<u8>,
}

/// What a descriptor of the loop is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Signals,
    Socket,
    Input,
    Source(usize),
}

impl Session {
    fn new(place: Place, command: Started, socket: TcpStream, receiver: Receiver) -> Session {
        Session {
            place,
            socket: Some(socket),
            receiver,
            unsent: VecDeque::new(),
            command,
            ended: None,
            buffer: vec![0; MAX_DATA],
        }
    }

    /// Runs until the command has ended and all that it said is on its way.
    fn run(&mut self, signals: &mut Signals) -> io::Result<Ending> {
        // What came together with the first words.
        self.obey_all();
        loop {
            let ready = self.wait(signals)?;
            let quiet = !ready.iter().any(|(role, _)| matches!(role, Role::Source(_)));
            if let Some(ending) = self.ended
                && quiet
                && (self.socket.is_none() || self.unsent.len() < UNSENT && !self.is_held())
            {
                return Ok(ending);
            }
            for (role, flags) in ready {
                match role {
                    Role::Signals => self.signalled(signals),
                    Role::Socket => self.exchange(flags),
                    Role::Input => {
                        let gone = flags.intersects(PollFlags::ERR | PollFlags::HUP);
                        let told = if gone { self.command.input.refuse() } else { self.command.input.write() };
                        self.tell(told);
                    }
                    Role::Source(index) => {
                        let told = match self.command.sources.get_mut(index) {
                            Some(source) => source.read(&mut self.buffer),
                            None => None,
                        };
                        self.tell(told);
                    }
                }
            }
        }
    }

    /// Whether output waits for room at the tool.
    fn is_held(&self) -> bool {
        self.command.sources.iter().any(|source| !source.is_over() && source.descriptor().is_none())
    }

    /// Waits until something can be done, and says what. After the command's end it only looks whether output is left.
    fn wait(&self, signals: &Signals) -> io::Result<Vec<(Role, PollFlags)>> {
        let mut roles = vec![Role::Signals];
        let mut fds = vec![PollFd::from_borrowed_fd(signals.get_read().as_fd(), PollFlags::IN)];
        let mut look_only = self.ended.is_some();
        if let Some(socket) = &self.socket {
            let sending = if self.unsent.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            roles.push(Role::Socket);
            fds.push(PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN | sending));
            look_only &= self.unsent.len() < UNSENT && !self.is_held();
        }
        if let Some(input) = self.command.input.descriptor() {
            let writing = if self.command.input.is_waiting() { PollFlags::OUT } else { PollFlags::empty() };
            roles.push(Role::Input);
            fds.push(PollFd::from_borrowed_fd(input.as_fd(), writing));
        }
        if self.unsent.len() < UNSENT {
            for (index, source) in self.command.sources.iter().enumerate() {
                if let Some(file) = source.descriptor() {
                    roles.push(Role::Source(index));
                    fds.push(PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN));
                }
            }
        }
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            match poll(&mut fds, look_only.then_some(&at_once)) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => break,
            }
        }
        let happened = fds.iter().map(PollFd::revents);
        Ok(roles.into_iter().zip(happened).filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// Something to tell the tool, if it is there.
    fn say(&mut self, frame: &Frame) {
        // All frames that are made here are short.
        if let Ok(bytes) = encode(frame) {
            self.unsent.extend(bytes);
        }
    }

    fn tell(&mut self, frame: Option<Frame>) {
        if let Some(frame) = frame.filter(|_| self.socket.is_some()) {
            self.say(&frame);
            self.send();
        }
    }

    fn send(&mut self) {
        while let Some(socket) = &mut self.socket
            && !self.unsent.is_empty()
        {
            match socket.write(self.unsent.as_slices().0) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.hang_up(),
            }
        }
    }

    /// The connection can be read or written.
    fn exchange(&mut self, flags: PollFlags) {
        if flags.contains(PollFlags::OUT) {
            self.send();
        }
        if !flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        let Some(socket) = &mut self.socket else { return };
        match socket.read(&mut self.buffer) {
            Ok(0) => self.hang_up(),
            Ok(count) => {
                self.receiver.feed(self.buffer.get(..count).unwrap_or_default());
                self.obey_all();
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(_) => self.hang_up(),
        }
    }

    fn obey_all(&mut self) {
        loop {
            match self.receiver.take().and_then(|frame| frame.map(|frame| self.obey(frame)).transpose()) {
                Ok(Some(())) => {}
                Ok(None) => return,
                Err(error) => {
                    eprintln!("agent: the tool sent {error}");
                    return self.hang_up();
                }
            }
        }
    }

    fn obey(&mut self, frame: Frame) -> Result<(), Malformed> {
        match frame {
            Frame::Data(Stream::Input, bytes) => {
                self.command.input.take(&bytes)?;
                let told = self.command.input.write();
                self.tell(told);
            }
            Frame::End(Stream::Input) => self.command.input.end(),
            Frame::Taken(stream, count) => self.source(stream)?.taken(count)?,
            Frame::Refused(stream) => self.source(stream)?.refuse(),
            Frame::Signal(number) => {
                if let Some(signal) = Signal::from_named_raw(number.into()) {
                    self.signal(signal);
                }
            }
            Frame::Resize(window) => {
                if let Some(terminal) = &self.command.terminal {
                    // A terminal whose other end is gone has no size.
                    let _ = resize(terminal, window);
                }
            }
            _ => return Err(Malformed::NotUnderstood),
        }
        Ok(())
    }

    fn source(&mut self, stream: Stream) -> Result<&mut Source, Malformed> {
        self.command.sources.iter_mut().find(|source| source.stream() == stream).ok_or(Malformed::NotUnderstood)
    }

    /// A signal from the tool: what a terminal's keys send goes to the whole group in the foreground.
    fn signal(&mut self, signal: Signal) {
        if self.ended.is_some() {
            return;
        }
        let keys = [Signal::INT, Signal::QUIT, Signal::TSTP, Signal::STOP, Signal::CONT, Signal::HUP, Signal::WINCH];
        let group = self.command.terminal.as_ref().and_then(|terminal| tcgetpgrp(terminal).ok());
        let group = group.unwrap_or(self.command.pid);
        if !keys.contains(&signal) || process::kill_process_group(group, signal).is_err() {
            // Before its own session begins there is no group of its own.
            let _ = process::kill_process(self.command.pid, signal);
        }
    }

    /// The tool is gone: the command learns it as it does when a terminal is closed.
    fn hang_up(&mut self) {
        self.signal(Signal::HUP);
        self.signal(Signal::CONT);
        self.socket = None;
        self.unsent.clear();
        let _ = self.command.input.refuse();
        for source in &mut self.command.sources {
            source.refuse();
        }
        self.command.terminal = None;
    }

    /// Signals have come.
    fn signalled(&mut self, signals: &mut Signals) {
        let numbers: Vec<i32> = signals.pending().collect();
        for number in numbers {
            match Signal::from_named_raw(number) {
                Some(Signal::CHILD) | None => {}
                Some(signal) => {
                    if self.ended.is_none() {
                        let _ = process::kill_process(self.command.pid, signal);
                    }
                }
            }
        }
        self.reap();
    }

    /// Waits for the command, and as first process for the orphans that are handed to it.
    fn reap(&mut self) {
        loop {
            let waited = match self.place {
                Place::First => process::wait(WaitOptions::NOHANG),
                Place::Joined => process::waitpid(Some(self.command.pid), WaitOptions::NOHANG),
            };
            match waited {
                Ok(Some((pid, status))) if pid == self.command.pid => {
                    self.ended = self.ended.or_else(|| ending(status));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}

fn ending(status: WaitStatus) -> Option<Ending> {
    let exited = status.exit_status().map(|code| Ending::Exited(code as u8));
    exited.or_else(|| status.terminating_signal().map(|signal| Ending::Killed(signal as u8)))
}
