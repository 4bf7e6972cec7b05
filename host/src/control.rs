//! The client of the control protocol: asks `shimosd` over TCP.
use crate::saved::Restored;
use anyhow::{Context, Error, Result, anyhow, bail};
use shimos_abi::{
    control::{
        CheckpointStatus, Drain, Evidence, Fault, Figure, Level, MAX_MESSAGE, MachineStatus, Processes, Protection,
        Request, Response, Start, Strictness, Target, Transfer, VERSION,
    },
    ids::{Epoch, Incarnation, KernelId, Life, Pid, ProgramId},
    time::Nanos,
};
use shimos_policy::{Policy, machine::Ask};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long one answer may take before the connection is made anew.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a question that may be repeated is repeated.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a measurement inside may take.
const MEASUREMENT: Duration = Duration::from_secs(120);

/// Whether a question may be asked again when no answer came.
enum Repeat {
    Harmless,
    Never,
}

/// A program that was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Started {
    /// The program.
    pub program: ProgramId,
    /// Its init process.
    pub pid: Pid,
    /// Where it runs.
    pub kernel: KernelId,
}

/// A client; connects when it is first asked for something, and again whenever the connection is lost.
#[derive(Debug)]
pub struct Control {
    port: u16,
    stream: Option<TcpStream>,
}

impl Control {
    /// A client for the daemon behind a port of this host.
    pub fn new(port: u16) -> Control {
        Control { port, stream: None }
    }

    /// Waits until the daemon answers, and checks that it speaks our version.
    pub fn hello(&mut self, within: Duration) -> Result<()> {
        let end = Instant::now() + within;
        let mut patience = Duration::from_millis(150);
        loop {
            match self.once(&Request::Hello, patience) {
                Ok(Response::Hello { version: VERSION }) => return Ok(()),
                Ok(Response::Hello { version }) => {
                    bail!("the machine speaks version {version} of the protocol, this tool {VERSION}; rebuild both")
                }
                Ok(other) => return Err(unexpected(&other)),
                Err(error) if Instant::now() >= end => {
                    return Err(error.context("the machine's control daemon does not answer"));
                }
                Err(_) => sleep(Duration::from_millis(20)),
            }
            patience = (patience * 5 / 4).min(ANSWER);
        }
    }

    /// Everything there is to know.
    pub fn status(&mut self) -> Result<MachineStatus> {
        match self.ask(&Request::Status, &Repeat::Harmless, ANSWER)? {
            Response::Status(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// The policy that the machine keeps.
    pub fn policy(&mut self) -> Result<Option<Policy>> {
        shimos_policy::machine::policy(self).map_err(Error::msg)
    }

    /// The level that the machine's policy gives a program that is about to start.
    pub fn level_for(&mut self, name: &str) -> Result<Option<Level>> {
        Ok(self.policy()?.and_then(|policy| policy.level_of(name)))
    }

    /// Starts a program.
    pub fn start(&mut self, start: Start) -> Result<Started> {
        match self.ask(&Request::Start(start), &Repeat::Never, PATIENCE)? {
            Response::Started { program, pid, kernel } => Ok(Started { program, pid, kernel }),
            other => Err(unexpected(&other)),
        }
    }

    /// Starts one more process in a running program.
    pub fn exec(&mut self, target: Target, argv: Vec<String>, env: Vec<String>) -> Result<Started> {
        match self.ask(&Request::Exec { target, argv, env }, &Repeat::Never, PATIENCE)? {
            Response::Started { program, pid, kernel } => Ok(Started { program, pid, kernel }),
            other => Err(unexpected(&other)),
        }
    }

    /// The processes of a program.
    pub fn processes(&mut self, program: ProgramId) -> Result<Processes> {
        let mut all: Option<Processes> = None;
        let mut from = Pid(0);
        loop {
            match self.ask(&Request::Processes { program, from }, &Repeat::Harmless, ANSWER)? {
                Response::Processes(mut part) => {
                    let next = part.next.filter(|next| *next > from);
                    part.list.splice(..0, all.map(|all| all.list).unwrap_or_default());
                    match next {
                        None => return Ok(part),
                        Some(next) => from = next,
                    }
                    all = Some(part);
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// The checkpoints of a program after an epoch, the oldest first, as many as one answer tells.
    pub fn checkpoints(&mut self, program: ProgramId, after: Epoch) -> Result<Vec<CheckpointStatus>> {
        match self.ask(&Request::Checkpoints { program, after }, &Repeat::Harmless, ANSWER)? {
            Response::Checkpoints(list) => Ok(list),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a signal to one process.
    pub fn signal(&mut self, pid: Pid, signal: u8) -> Result<()> {
        self.done(&Request::Signal { pid, signal }, &Repeat::Never)
    }

    /// Sends a signal to all processes of a program.
    pub fn kill(&mut self, target: Target, signal: u8) -> Result<()> {
        self.done(&Request::Kill { target, signal }, &Repeat::Never)
    }

    /// Protects a program; returns what of it cannot be protected.
    pub fn protect(&mut self, target: Target, protection: Protection) -> Result<Vec<String>> {
        match self.ask(&Request::Protect { target, protection }, &Repeat::Harmless, ANSWER)? {
            Response::Protected { exceptions, .. } => Ok(exceptions),
            other => Err(unexpected(&other)),
        }
    }

    /// Sets what happens to a program when its kernel dies; returns what of it cannot be protected.
    pub fn set_level(&mut self, target: Target, level: Level, strictness: Strictness) -> Result<Vec<String>> {
        match self.ask(&Request::SetLevel { target, level, strictness }, &Repeat::Harmless, ANSWER)? {
            Response::Protected { exceptions, .. } => Ok(exceptions),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the machine keep a program as it is now, to be read.
    pub fn save(&mut self, target: Target) -> Result<Transfer> {
        match self.ask(&Request::Save { target }, &Repeat::Harmless, ANSWER)? {
            Response::Transfer(what) => Ok(what),
            other => Err(unexpected(&other)),
        }
    }

    /// Bytes of a program that is kept, from a place on; none at the end.
    pub fn saved_part(&mut self, program: ProgramId, from: u64) -> Result<Vec<u8>> {
        match self.ask(&Request::SavedPart { program, from }, &Repeat::Harmless, ANSWER)? {
            Response::Part(bytes) => Ok(bytes),
            other => Err(unexpected(&other)),
        }
    }

    /// Begins to bring a program.
    pub fn begin_restore(&mut self, what: Transfer) -> Result<()> {
        self.done(&Request::BeginRestore(what), &Repeat::Never)
    }

    /// Brings a part of it.
    pub fn restore_part(&mut self, program: ProgramId, from: u64, bytes: &[u8]) -> Result<()> {
        self.done(&Request::RestorePart { program, from, bytes: bytes.to_vec() }, &Repeat::Harmless)
    }

    /// Lets it go on.
    pub fn end_restore(&mut self, program: ProgramId) -> Result<Restored> {
        match self.ask(&Request::EndRestore { program }, &Repeat::Never, ANSWER)? {
            Response::Restored { program, pid, kernel, closed } => Ok(Restored { program, pid, kernel, closed }),
            other => Err(unexpected(&other)),
        }
    }

    /// Protects a program no more.
    pub fn unprotect(&mut self, target: Target) -> Result<()> {
        self.done(&Request::Unprotect { target }, &Repeat::Harmless)
    }

    /// Begins to move a program; the status tells how it goes.
    pub fn begin_move(&mut self, target: Target, to: KernelId) -> Result<()> {
        self.done(&Request::Move { target, to }, &Repeat::Never)
    }

    /// Begins to empty a kernel, or lets programs come again.
    pub fn drain(&mut self, kernel: KernelId, drain: Drain) -> Result<()> {
        self.done(&Request::Drain { kernel, drain }, &Repeat::Harmless)
    }

    /// Has a life of a kernel emptied and followed by a fresh one.
    pub fn reboot(&mut self, life: Life) -> Result<()> {
        self.done(&Request::Reboot { kernel: life.kernel, incarnation: Some(life.incarnation) }, &Repeat::Harmless)
    }

    /// Injures a kernel; what hits at random goes by the seed.
    pub fn inject(&mut self, kernel: KernelId, fault: Fault, seed: u64) -> Result<()> {
        // The order names the life that it is for, so that it is obeyed once even if the daemon's kernel dies of it.
        let status = self.status()?;
        let incarnation =
            status.kernels.iter().find(|seen| seen.id == kernel).map(|seen| Incarnation(seen.incarnation));
        self.done(&Request::Inject { kernel, fault, incarnation, seed }, &Repeat::Harmless)
    }

    /// Injures one life of a kernel. If it is over, nothing is left to do.
    pub fn inject_life(&mut self, life: Life, fault: Fault) -> Result<()> {
        self.inject_seeded(life, fault, 0)
    }

    /// The same; what hits at random goes by the seed.
    pub fn inject_seeded(&mut self, life: Life, fault: Fault, seed: u64) -> Result<()> {
        let request = Request::Inject { kernel: life.kernel, fault, incarnation: Some(life.incarnation), seed };
        self.done(&request, &Repeat::Harmless)
    }

    /// Sets the daemons' interval.
    pub fn set_heartbeat(&mut self, interval: Nanos) -> Result<()> {
        self.done(&Request::SetHeartbeat { interval }, &Repeat::Harmless)
    }

    /// The latest death record of a kernel.
    pub fn evidence(&mut self, kernel: KernelId) -> Result<Option<Evidence>> {
        match self.ask(&Request::Evidence { kernel }, &Repeat::Harmless, ANSWER)? {
            Response::Evidence(evidence) => Ok(evidence),
            other => Err(unexpected(&other)),
        }
    }

    /// Measures inter-kernel communication inside.
    pub fn bench_ikc(&mut self, rounds: u32) -> Result<Vec<Figure>> {
        match self.ask(&Request::BenchIkc { rounds }, &Repeat::Never, MEASUREMENT)? {
            Response::Figures(figures) => Ok(figures),
            other => Err(unexpected(&other)),
        }
    }

    /// Stops the machine. It may be gone before it answers.
    pub fn power_off(&mut self) {
        let _ = self.once(&Request::PowerOff, ANSWER);
    }

    fn done(&mut self, request: &Request, repeat: &Repeat) -> Result<()> {
        match self.ask(request, repeat, ANSWER)? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&mut self, request: &Request, repeat: &Repeat, patience: Duration) -> Result<Response> {
        let end = Instant::now() + PATIENCE;
        loop {
            match (self.once(request, patience), repeat) {
                (Ok(Response::Failed(why)), _) => return Err(anyhow!(why)),
                // Nothing was done: it may be asked again, whatever it is.
                (Ok(Response::Again(_)), _) if Instant::now() < end => sleep(Duration::from_millis(20)),
                (Ok(response), _) => return Ok(response),
                (Err(_), Repeat::Harmless) if Instant::now() < end => sleep(Duration::from_millis(20)),
                (Err(error), _) => {
                    return Err(error.context("the machine's control daemon gave no answer"));
                }
            }
        }
    }

    /// Asks once. After any failure the connection is closed: a late answer must not be taken for the next one's.
    fn once(&mut self, request: &Request, patience: Duration) -> Result<Response> {
        let result = self.exchange(request, patience);
        if result.is_err() {
            self.stream = None;
        }
        result
    }

    fn exchange(&mut self, request: &Request, patience: Duration) -> Result<Response> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
                let stream = TcpStream::connect_timeout(&address, ANSWER).context("cannot connect")?;
                stream.set_nodelay(true)?;
                none.insert(stream)
            }
        };
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let item = minicbor::to_vec(request)?;
        let mut message = (item.len() as u32).to_le_bytes().to_vec();
        message.extend_from_slice(&item);
        stream.write_all(&message)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_MESSAGE {
            bail!("an answer of {length} bytes; the most is {MAX_MESSAGE}");
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer)?;
        minicbor::decode(&answer).context("the answer is not understood")
    }
}

/// What tools of policies ask.
impl Ask for Control {
    fn ask(&mut self, request: &Request) -> Result<Response, String> {
        let repeat = if request.is_repeatable() { Repeat::Harmless } else { Repeat::Never };
        Control::ask(self, request, &repeat, PATIENCE).map_err(|error| format!("{error:#}"))
    }
}

fn unexpected(response: &Response) -> Error {
    match response {
        Response::Failed(why) | Response::Again(why) => anyhow!(why.clone()),
        other => anyhow!("the machine gave an answer that does not fit the question: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, thread};

    /// A stand-in daemon: one connection for each entry; `None` hangs up without an answer.
    fn daemon(answers: Vec<Option<Response>>) -> (u16, thread::JoinHandle<Vec<Request>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let thread = thread::spawn(move || {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("accept");
                let mut length = [0; 4];
                stream.read_exact(&mut length).expect("length");
                let mut item = vec![0; u32::from_le_bytes(length) as usize];
                stream.read_exact(&mut item).expect("item");
                asked.push(minicbor::decode(&item).expect("a request"));
                if let Some(answer) = answer {
                    let item = minicbor::to_vec(answer).expect("encodes");
                    stream.write_all(&(item.len() as u32).to_le_bytes()).expect("write");
                    stream.write_all(&item).expect("write");
                }
            }
            asked
        });
        (port, thread)
    }

    #[test]
    fn a_lost_connection_is_made_anew_for_harmless_questions() {
        let (port, daemon) = daemon(vec![None, Some(Response::Done)]);
        Control::new(port).unprotect(Target::Pid(Pid(7))).expect("second try");
        assert_eq!(daemon.join().expect("joins").len(), 2);
    }

    #[test]
    fn a_lost_answer_is_not_asked_for_again_when_that_could_harm() {
        let (port, daemon) = daemon(vec![None]);
        assert!(Control::new(port).inject(KernelId(1), Fault::Panic, 0).is_err());
        assert_eq!(daemon.join().expect("joins").len(), 1);
    }

    #[test]
    fn what_the_kernel_refuses_is_told_in_its_words() {
        let (port, _daemon) = daemon(vec![Some(Response::Failed("no such program".to_string()))]);
        let error = Control::new(port).kill(Target::Pid(Pid(7)), 9).expect_err("refused");
        assert_eq!(error.to_string(), "no such program");
    }

    #[test]
    fn another_version_is_told() {
        let (port, _daemon) = daemon(vec![Some(Response::Hello { version: VERSION + 1 })]);
        let error = Control::new(port).hello(Duration::from_secs(5)).expect_err("refused");
        assert!(error.to_string().contains("rebuild"), "{error}");
    }
}
