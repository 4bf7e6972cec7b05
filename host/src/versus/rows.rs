//! What is measured on both kernels.

/// Which mean a row counts in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// The kernel does most of the work.
    Kernel,
    /// A whole program as its users know it.
    Program,
    /// Neither; shown only.
    Other,
}

impl Group {
    /// As a word.
    pub fn name(self) -> &'static str {
        match self {
            Group::Kernel => "kernel",
            Group::Program => "program",
            Group::Other => "other",
        }
    }
}

/// How a row is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// A row of the program `micro`.
    Micro,
    /// The same, with a server on this host.
    Network,
    /// How long a line of shell runs.
    Time(&'static str),
    /// A test of redis-benchmark, by its name.
    Redis(&'static str),
    /// Requests from this host to a web server inside; the line of shell starts it in the foreground.
    Http(&'static str),
}

/// A row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What one operation is.
    pub what: &'static str,
    /// Which mean it counts in.
    pub group: Group,
    /// How it is measured.
    pub how: How,
}

const fn micro(name: &'static str, what: &'static str) -> Row {
    Row { name, what, group: Group::Kernel, how: How::Micro }
}

const fn network(name: &'static str, what: &'static str) -> Row {
    Row { name, what, group: Group::Kernel, how: How::Network }
}

const fn program(name: &'static str, what: &'static str, how: How) -> Row {
    Row { name, what, group: Group::Program, how }
}

/// The port of the web servers inside.
pub const WEB_PORT: u16 = 8080;

const NGINX: &str = "mkdir -p /tmp/www && head -c 1024 /usr/bin/gzip >/tmp/www/file && \
    printf 'user root; daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log /dev/null; \
    events { worker_connections 64; } \
    http { access_log off; sendfile on; keepalive_requests 1000000; server { listen 8080; root /tmp/www; } }' \
    >/tmp/nginx.conf && exec /usr/sbin/nginx -c /tmp/nginx.conf";

const LIGHTTPD: &str = "mkdir -p /tmp/www && head -c 1024 /usr/bin/gzip >/tmp/www/file && \
    printf 'server.document-root = \"/tmp/www\"\\nserver.port = 8080\\nserver.max-keep-alive-requests = 1000000\\n' \
    >/tmp/lighttpd.conf && exec /usr/sbin/lighttpd -D -f /tmp/lighttpd.conf";

const PYTHON: &str = "python3 -c 'd = {str(i): i * 2 for i in range(150000)}; print(sum(d.values()), len(sorted(d)))'";

/// All rows, in the order of the table.
pub const ROWS: &[Row] = &[
    micro("null_call", "null call (getppid)"),
    micro("read_0", "read of nothing"),
    micro("write_0", "write of nothing"),
    micro("read_4k", "read of 4 KiB from a file"),
    micro("write_4k", "write of 4 KiB to a file"),
    micro("stat", "stat"),
    micro("open_close", "open and close"),
    micro("signal", "signal to oneself, handled"),
    micro("switch", "sched_yield between two"),
    micro("pipe", "pipe, there and back"),
    micro("unix", "UNIX socket, there and back"),
    micro("mmap", "mmap and munmap"),
    micro("page_fault", "page fault, anonymous"),
    micro("file_fault", "page fault, cached file"),
    micro("cow_fault", "page fault, copy on write"),
    micro("fork_exit", "fork and exit"),
    micro("fork_exec", "fork and exec"),
    micro("file_create", "file of 1 KiB made"),
    micro("file_read", "file of 1 KiB read"),
    micro("file_delete", "file of 1 KiB deleted"),
    network("tcp_round", "TCP to the host, there and back"),
    network("tcp_send", "TCP to the host, 1 MiB"),
    network("tcp_receive", "TCP from the host, 1 MiB"),
    Row { name: "clock", what: "reading the clock", group: Group::Other, how: How::Micro },
    program("redis_set", "redis SET", How::Redis("set")),
    program("redis_get", "redis GET", How::Redis("get")),
    program("nginx", "request to nginx", How::Http(NGINX)),
    program("lighttpd", "request to lighttpd", How::Http(LIGHTTPD)),
    program("python", "python computes", How::Time(PYTHON)),
    // Without the time of the file: an image's may be 0, of which gzip warns.
    program("gzip", "gzip compresses", How::Time("gzip -n </usr/bin/python3")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_commands_fit_on_a_line() {
        for (index, row) in ROWS.iter().enumerate() {
            assert!(ROWS.iter().skip(index + 1).all(|other| other.name != row.name), "{}", row.name);
            if let How::Time(line) | How::Http(line) = row.how {
                assert!(line.len() < 2000 && !line.contains('\n'), "{}", row.name);
            }
        }
    }
}
