//! Interpreters: programs of a few lines that keep a record of all that they were told, and answer each line with what the
//! record has become. One lost line, or one that was taken twice, makes every later answer another one.
use super::{Client, Connection, Dial, Load, Shared, shell};
use anyhow::{Context, Result, bail};
use shimos_random::Random;
use std::{sync::Arc, time::Duration};

/// Places of the record.
const PLACES: usize = 512;
/// The record's numbers are below this.
const BELOW: u64 = 1_000_003;
/// What comes before each answer is folded with this.
const FOLD: u64 = 31;
/// Where they listen.
const PORT: u16 = 7000;

/// An interpreter with its program: for each line `PLACE NUMBER`, `sum = (sum * 31 + r[PLACE] + NUMBER) % 1000003` becomes
/// both the sum and the new number at that place, and is the answer.
pub struct Lines {
    name: &'static str,
    file: &'static str,
    text: &'static str,
    /// Run for each connection, with the connection as input and output; otherwise the program listens by itself.
    each: Option<&'static str>,
}

/// All of them.
pub static LOADS: [Lines; 7] = [
    Lines { name: "bash", file: "record.sh", each: Some("/bin/bash /tmp/record.sh"), text: BASH },
    Lines { name: "busybox-sh", file: "record.sh", each: Some("/bin/busybox sh /tmp/record.sh"), text: SHELL },
    Lines { name: "gawk", file: "record.awk", each: Some("/usr/bin/gawk -f /tmp/record.awk"), text: AWK },
    Lines { name: "perl", file: "record.pl", each: None, text: PERL },
    Lines { name: "python-threads", file: "record.py", each: None, text: THREADS },
    Lines { name: "python-asyncio", file: "record.py", each: None, text: ASYNCIO },
    Lines { name: "python-processes", file: "record.py", each: None, text: PROCESSES },
];

const BASH: &str = "declare -a r; s=0
while read -r p n; do s=$(((s * 31 + ${r[p]:-0} + n) % 1000003)); r[p]=$s; echo $s; done
";
const SHELL: &str = "s=0
while read -r p n; do eval \"v=\\${r$p:-0}\"; s=$(((s * 31 + v + n) % 1000003)); eval r$p=$s; echo $s; done
";
const AWK: &str = "{ s = (s * 31 + r[$1] + $2) % 1000003; r[$1] = s; print s; fflush() }
";
const PERL: &str = "use IO::Socket::INET;
my $l = IO::Socket::INET->new(Listen => 64, LocalPort => 7000, ReuseAddr => 1) or die;
$SIG{CHLD} = 'IGNORE';
while (my $c = $l->accept) {
    next if fork;
    my ($s, @r) = (0);
    while (<$c>) { my ($p, $n) = split; $s = ($s * 31 + ($r[$p] // 0) + $n) % 1000003; $r[$p] = $s; print $c \"$s\\n\"; }
    exit;
}
";
const THREADS: &str = "import socketserver
class H(socketserver.StreamRequestHandler):
    def handle(self):
        s, r = 0, {}
        for line in self.rfile:
            p, n = map(int, line.split())
            s = (s * 31 + r.get(p, 0) + n) % 1000003
            r[p] = s
            self.wfile.write(b'%d\\n' % s)
class S(socketserver.ThreadingTCPServer):
    allow_reuse_address, request_queue_size = True, 64
S(('', 7000), H).serve_forever()
";
const ASYNCIO: &str = "import asyncio
async def serve(i, o):
    s, r = 0, {}
    while line := await i.readline():
        p, n = map(int, line.split())
        s = (s * 31 + r.get(p, 0) + n) % 1000003
        r[p] = s
        o.write(b'%d\\n' % s)
        await o.drain()
    o.close()
async def main():
    await (await asyncio.start_server(serve, '0.0.0.0', 7000)).serve_forever()
asyncio.run(main())
";
/// The record lies in another process, behind two pipes.
const PROCESSES: &str = "import socketserver, subprocess, sys
class H(socketserver.StreamRequestHandler):
    def handle(self):
        worker = subprocess.Popen([sys.executable, '-u', '-c', '''
import sys
s, r = 0, {}
for line in sys.stdin:
    p, n = map(int, line.split())
    s = (s * 31 + r.get(p, 0) + n) % 1000003
    r[p] = s
    print(s)
'''], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for line in self.rfile:
            worker.stdin.write(line)
            worker.stdin.flush()
            self.wfile.write(worker.stdout.readline())
        worker.stdin.close()
        worker.wait()
class S(socketserver.ForkingTCPServer):
    allow_reuse_address, request_queue_size = True, 64
S(('', 7000), H).serve_forever()
";
/// Gives each connection to a process as its input and output.
const LISTENER: &str = "import socket, subprocess, sys
l = socket.socket()
l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.bind(('', 7000))
l.listen(64)
running = []
while True:
    c, _ = l.accept()
    running = [p for p in running if p.poll() is None]
    running.append(subprocess.Popen(sys.argv[1:], stdin=c, stdout=c))
    c.close()
";

/// A script that puts a text into a file.
pub(super) fn put(file: &str, text: &str) -> String {
    format!("cat >/tmp/{file} <<'END OF {file}'\n{text}END OF {file}\n")
}

/// A script that gives each connection to the port [`PORT`] to a process of its own.
pub(super) fn listen(each: &str) -> String {
    format!("{}exec python3 /tmp/listener.py {each}", put("listener.py", LISTENER))
}

impl Load for Lines {
    fn name(&self) -> &'static str {
        self.name
    }
    fn command(&self) -> Vec<String> {
        let run = match self.each {
            Some(each) => listen(each),
            None if self.file.ends_with(".pl") => format!("exec perl /tmp/{}", self.file),
            None => format!("exec python3 /tmp/{}", self.file),
        };
        shell(&format!("{}{run}", put(self.file, self.text)))
    }
    fn port(&self) -> u16 {
        PORT
    }
    fn patience(&self) -> Duration {
        Duration::from_secs(90)
    }
    fn prepare(&self, dial: Dial) -> Result<Arc<dyn Shared>> {
        let teller = Teller { dial, random: Random::new(0), talk: None };
        let mut first = teller;
        first.step()?;
        Ok(Arc::new(Interpreter { dial }))
    }
}

struct Interpreter {
    dial: Dial,
}

impl Shared for Interpreter {
    fn client(&self, _: usize, seed: u64) -> Result<Box<dyn Client>> {
        Ok(Box::new(Teller { dial: self.dial, random: Random::new(seed), talk: None }))
    }
}

struct Teller {
    dial: Dial,
    random: Random,
    talk: Option<Talk>,
}

/// A connection with the record that the other side must have.
struct Talk {
    connection: Connection,
    sum: u64,
    record: Vec<u64>,
}

impl Talk {
    /// What the answer to a line must be.
    fn expect(&mut self, place: usize, number: u64) -> u64 {
        let Some(entry) = self.record.get_mut(place) else { return self.sum };
        self.sum = (self.sum * FOLD + *entry + number) % BELOW;
        *entry = self.sum;
        self.sum
    }
}

impl Client for Teller {
    fn step(&mut self) -> Result<()> {
        let mut talk = match self.talk.take() {
            Some(talk) => talk,
            None => Talk { connection: self.dial.connect()?, sum: 0, record: vec![0; PLACES] },
        };
        // Several lines at a time, now and then.
        let lines = if self.random.once_in(4) { self.random.between(2, 20) } else { 1 };
        let (mut text, mut wanted) = (String::new(), Vec::new());
        for _ in 0..lines {
            let (place, number) = (self.random.index(PLACES), self.random.below(BELOW));
            text += &format!("{place} {number}\n");
            wanted.push(talk.expect(place, number));
        }
        talk.connection.send(text.as_bytes())?;
        for wanted in wanted {
            let answer = talk.connection.line()?;
            let number: u64 = answer.parse().with_context(|| format!("the answer '{answer}'"))?;
            if number != wanted {
                bail!("the record's sum must be {wanted}, and is {number}: something was lost or done twice");
            }
        }
        // Somebody new must be let in at any time.
        if !self.random.once_in(200) {
            self.talk = Some(talk);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        thread,
    };

    /// An interpreter that forgets the line with this number.
    fn forgetful(forgotten: usize) -> Dial {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let dial = Dial { port: listener.local_addr().expect("bound").port() };
        thread::spawn(move || {
            let (stream, _) = listener.accept().expect("accepts");
            let mut answers = stream.try_clone().expect("clones");
            let (mut sum, mut record) = (0, vec![0; PLACES]);
            for (number, line) in BufReader::new(stream).lines().map_while(Result::ok).enumerate() {
                let (place, value) = line.split_once(' ').expect("two words");
                let place: usize = place.parse().expect("a place");
                if number != forgotten {
                    sum = (sum * FOLD + record[place] + value.parse::<u64>().expect("a number")) % BELOW;
                    record[place] = sum;
                }
                if writeln!(answers, "{sum}").is_err() {
                    return;
                }
            }
        });
        dial
    }

    #[test]
    fn a_line_that_was_lost_shows_in_the_next_answer() {
        let mut teller = Teller { dial: forgetful(usize::MAX), random: Random::new(3), talk: None };
        (0..50).for_each(|_| teller.step().expect("all is right"));
        let mut teller = Teller { dial: forgetful(40), random: Random::new(3), talk: None };
        let wrong = (0..50).find_map(|_| teller.step().err()).expect("found");
        assert!(wrong.to_string().contains("lost or done twice"));
    }
}
