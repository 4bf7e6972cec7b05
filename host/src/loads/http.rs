//! Web servers: downloads whose every byte is known, over fresh connections, kept ones and slow ones.
use super::{Client, Connection, Dial, Load, Shared, shell};
use anyhow::{Context, Result, bail};
use shimos_random::Random;
use std::{
    fmt::Write,
    sync::{Arc, LazyLock},
    thread::sleep,
    time::Duration,
};

/// The large file has the numbers from 1 to this, a line each.
const LINES: u32 = 200_000;
/// Bytes that a slow client takes at a time, and how long it waits then.
const SIP: usize = 8 * 1024;
const SLOW: Duration = Duration::from_millis(1);

static LARGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut text = String::new();
    for line in 1..=LINES {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    }
    text.into_bytes()
});
const SMALL: &[u8] = b"small\n";

macro_rules! apache {
    ($mpm:literal) => {
        concat!(
            "a2dismod -q -f mpm_event mpm_prefork mpm_worker >/dev/null 2>&1 || true
            a2enmod -q mpm_",
            $mpm,
            " >/dev/null
            printf '%s\\n' 'KeepAliveTimeout 3600' 'MaxKeepAliveRequests 0' 'Timeout 3600' 'RequestReadTimeout header=0 body=0' \
            'ServerName shimos' >/etc/apache2/conf-enabled/long.conf
            . /etc/apache2/envvars; mkdir -p /run/apache2 /var/lock/apache2 /var/log/apache2
            exec apache2 -D FOREGROUND"
        )
    };
}
/// A web server.
pub struct Web {
    name: &'static str,
    port: u16,
    /// Whether it keeps a connection for further requests.
    keeps: bool,
    /// Where it has its files.
    root: &'static str,
    /// What is run when they are there.
    line: &'static str,
}

/// All of them.
pub static LOADS: [Web; 6] = [
    Web {
        name: "httpd",
        port: 80,
        keeps: false,
        root: "/tmp/www",
        line: "exec /bin/busybox httpd -f -p 80 -h /tmp/www",
    },
    Web {
        name: "nginx",
        port: 80,
        keeps: true,
        root: "/var/www/html",
        line: "sed -i 's/worker_processes auto/worker_processes 2/' /etc/nginx/nginx.conf
            echo 'keepalive_requests 1000000; keepalive_timeout 1h; send_timeout 1h; client_header_timeout 1h;' >/etc/nginx/conf.d/long.conf
            exec nginx -g 'daemon off;'",
    },
    Web {
        name: "lighttpd",
        port: 80,
        keeps: true,
        root: "/var/www/html",
        line: "echo 'server.max-keep-alive-requests = 60000' >>/etc/lighttpd/lighttpd.conf
            echo 'server.max-keep-alive-idle = 3600' >>/etc/lighttpd/lighttpd.conf
            exec lighttpd -D -f /etc/lighttpd/lighttpd.conf",
    },
    Web {
        name: "mini-httpd",
        port: 8082,
        keeps: false,
        root: "/tmp/www",
        line: "exec mini_httpd -D -p 8082 -d /tmp/www -u nobody -T utf-8",
    },
    Web { name: "apache2-prefork", port: 80, keeps: true, root: "/var/www/html", line: apache!("prefork") },
    Web { name: "apache2-event", port: 80, keeps: true, root: "/var/www/html", line: apache!("event") },
];

impl Load for Web {
    fn name(&self) -> &'static str {
        self.name
    }
    fn command(&self) -> Vec<String> {
        let Web { root, line, .. } = self;
        shell(&format!(
            "b=/bin/busybox; $b mkdir -p {root}; $b seq 1 {LINES} >{root}/large; echo small >{root}/small; {line}"
        ))
    }
    fn port(&self) -> u16 {
        self.port
    }
    fn prepare(&self, dial: Dial) -> Result<Arc<dyn Shared>> {
        let site = Site { dial, keeps: self.keeps };
        site.client(0, 0)?.step()?;
        Ok(Arc::new(site))
    }
}

struct Site {
    dial: Dial,
    keeps: bool,
}

impl Shared for Site {
    fn client(&self, number: usize, seed: u64) -> Result<Box<dyn Client>> {
        let habit = match (number, self.keeps) {
            (0, _) => Habit::Slow,
            (1, true) | (2, true) => Habit::Kept,
            _ => Habit::Fresh,
        };
        Ok(Box::new(Browser { dial: self.dial, habit, random: Random::new(seed), kept: None }))
    }
}

/// How a client uses connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// A new one for each file.
    Fresh,
    /// One for all.
    Kept,
    /// A new one for each file, which is always the large one and taken in sips.
    Slow,
}

struct Browser {
    dial: Dial,
    habit: Habit,
    random: Random,
    kept: Option<Connection>,
}

impl Client for Browser {
    fn step(&mut self) -> Result<()> {
        let large = self.habit == Habit::Slow || self.random.once_in(4);
        let (name, wanted) = if large { ("large", LARGE.as_slice()) } else { ("small", SMALL) };
        let mut connection = match self.kept.take() {
            Some(connection) => connection,
            None => self.dial.connect()?,
        };
        let (version, header) = match self.habit {
            Habit::Kept => ("1.1", "Host: shimos\r\n"),
            _ => ("1.0", ""),
        };
        connection.send(format!("GET /{name} HTTP/{version}\r\n{header}\r\n").as_bytes())?;
        let sip = if self.habit == Habit::Slow { Some(SLOW) } else { None };
        receive(&mut connection, wanted, sip).with_context(|| format!("the file {name}"))?;
        if self.habit == Habit::Kept {
            self.kept = Some(connection);
        } else if !connection.some(1)?.is_empty() {
            bail!("more than the file {name} came");
        }
        Ok(())
    }
}

/// Takes an answer and compares it with what it must be.
fn receive(connection: &mut Connection, wanted: &[u8], pause: Option<Duration>) -> Result<()> {
    let first = connection.line()?;
    if !first.starts_with("HTTP/1.") || !first.contains(" 200 ") {
        bail!("the server answered '{first}'");
    }
    let mut length = None;
    loop {
        let line = connection.line()?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse::<usize>().context("the length of the answer")?);
        }
    }
    if length.is_some_and(|length| length != wanted.len()) {
        bail!("the server says that it has {length:?} bytes in place of {}", wanted.len());
    }
    let mut place = 0;
    while place < wanted.len() {
        let most = (wanted.len() - place).min(SIP);
        let some = connection.some(most)?;
        if some.is_empty() {
            bail!("the connection was closed after {place} of {} bytes", wanted.len());
        }
        if wanted.get(place..place + some.len()) != Some(some) {
            bail!("a wrong byte between {place} and {}", place + some.len());
        }
        place += some.len();
        if let Some(pause) = pause {
            sleep(pause);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write as _, net::TcpListener, thread};

    fn answered(answer: Vec<u8>, habit: Habit) -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let dial = Dial { port: listener.local_addr().expect("bound").port() };
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accepts");
            let _ = std::io::Read::read(&mut stream, &mut [0; 200]);
            stream.write_all(&answer).expect("sends");
        });
        let result = Browser { dial, habit, random: Random::new(1), kept: None }.step();
        let _ = server.join();
        result
    }

    #[test]
    fn a_download_is_compared_byte_by_byte() {
        let mut answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", LARGE.len()).into_bytes();
        let body = answer.len();
        answer.extend_from_slice(&LARGE);
        answered(answer.clone(), Habit::Slow).expect("all is right");
        let told = |answer| format!("{:#}", answered(answer, Habit::Slow).expect_err("refused"));
        let mut wrong = answer.clone();
        wrong[body + 1_000_000] ^= 1;
        assert!(told(wrong).contains("a wrong byte"));
        assert!(told(answer[..body + 1000].to_vec()).contains("closed after 1000"));
        answer.push(b'x');
        assert!(told(answer).contains("more than the file"));
        assert!(told(b"HTTP/1.0 404 Not Found\r\n\r\n".to_vec()).contains("404"));
    }
}
