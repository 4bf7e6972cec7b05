//! Debian's programs at work: scripts for bash and busybox with what they must print.
use crate::{Outcome, check::same};
use std::{
    io::Read,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// A script and what it prints.
pub struct Script {
    /// Its name.
    pub name: &'static str,
    /// Who runs it: a program and its arguments in front of the script.
    pub by: &'static [&'static str],
    /// The script.
    pub text: &'static str,
    /// Its standard output and error.
    pub prints: &'static str,
}

const BASH: &[&str] = &["/bin/bash", "-c"];
const SH: &[&str] = &["busybox", "sh", "-c"];
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a script in an empty directory.
pub fn run(script: &Script) -> Outcome {
    let dir = std::env::temp_dir().join(format!("abi-{}-{}", std::process::id(), script.name.replace('/', "-")));
    let text = |error: std::io::Error| error.to_string();
    std::fs::create_dir_all(&dir).map_err(text)?;
    let (mut reader, writer) = std::io::pipe().map_err(text)?;
    let mut child = Command::new(script.by[0])
        .args(&script.by[1..])
        .arg(script.text)
        .current_dir(&dir)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(text)?)
        .stderr(writer)
        .spawn()
        .map_err(text)?;
    let reading = std::thread::spawn(move || {
        let mut said = Vec::new();
        let _ = reader.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    });
    let begun = Instant::now();
    while child.try_wait().map_err(text)?.is_none() {
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return Err("did not end".into());
        }
        sleep(Duration::from_millis(2));
    }
    let said = reading.join().map_err(|_| "the reader panicked")?;
    let outcome = same("output", said.as_str(), script.prints);
    std::fs::remove_dir_all(&dir).map_err(|error| format!("cannot remove its directory: {error}"))?;
    outcome
}

/// The scripts.
pub const SCRIPTS: &[Script] = &[
    Script {
        name: "bash/pipes",
        by: BASH,
        text: "for i in 1 2 3; do echo line $i; done | sed s/line/n/ | tr '\\n' ' '; echo; \
               echo $(echo a; echo b | tr b c); seq 1 1000 | sort -rn | head -2 | tail -1; \
               set -o pipefail; false | true; echo $?; yes | head -3 | wc -l",
        prints: "n 1 n 2 n 3 \na c\n999\n1\n3\n",
    },
    Script {
        name: "bash/here-documents",
        by: BASH,
        text: "x=value; cat <<END\n$x $((6 * 7))\nEND\ncat <<'END'\n$x\nEND\ncat <<< string; \
               while read -r a b; do echo \"$b-$a\"; done <<END\none two\nthree four\nEND",
        prints: "value 42\n$x\nstring\ntwo-one\nfour-three\n",
    },
    Script {
        name: "bash/background",
        by: BASH,
        text: "(sleep 0.1; echo second) & echo first; wait; (exit 3) & wait $!; echo $?; \
               sleep 30 & p=$!; kill $p; wait $p 2>/dev/null; echo $?; \
               for n in 1 2 3 4 5; do (sleep 0.0$n; exit $n) & done; wait; echo all",
        prints: "first\nsecond\n3\n143\nall\n",
    },
    Script {
        name: "bash/traps",
        by: BASH,
        text: "trap 'echo term' TERM; trap 'echo bye' EXIT; kill -TERM $$; echo on; \
               (trap 'echo inner; exit 5' USR1; while :; do sleep 0.01; done) & \
               sleep 0.3; kill -USR1 $!; wait $!; echo $?; trap '' INT; kill -INT $$; echo still",
        prints: "term\non\ninner\n5\nstill\nbye\n",
    },
    Script {
        name: "bash/substitution",
        by: BASH,
        text: "cat <(echo one) <(echo two); diff <(seq 3) <(seq 3) && echo same; echo tee | tee >(cat >t) >/dev/null; \
               sleep 0.3; cat t; mapfile -t a < <(printf 'x\\ny\\n'); echo ${#a[@]} ${a[1]}",
        prints: "one\ntwo\nsame\ntee\n2 y\n",
    },
    Script {
        name: "bash/redirection",
        by: BASH,
        text: "echo out >a; echo more >>a; cat <a; echo err 2>b >&2; cat b; exec 5>c; echo five >&5; exec 5>&-; cat c; \
               { echo x; ls nothing; } >d 2>&1; wc -l <d; set -C; { echo no >a; } 2>/dev/null || echo kept; : >|a; wc -c <a",
        prints: "out\nmore\nerr\nfive\n2\nkept\n0\n",
    },
    Script {
        name: "bash/coprocess",
        by: BASH,
        text: "coproc cat; echo hi >&${COPROC[1]}; read -r x <&${COPROC[0]}; echo $x; \
               mkfifo f; cat f & echo through >f; wait $!; exec 3<>f; echo both >&3; read -r y <&3; echo $y",
        prints: "hi\nthrough\nboth\n",
    },
    Script {
        name: "bash/deep",
        by: BASH,
        text: "f() { if [ $1 -gt 0 ]; then ( f $(($1 - 1)) ); else echo bottom; fi; }; f 30; \
               x=0; while [ $x -lt 100 ]; do x=$(expr $x + 1); done; echo $x",
        prints: "bottom\n100\n",
    },
    Script {
        name: "coreutils/files",
        by: BASH,
        text: "mkdir -p a/b/c; echo 1 >a/b/c/x; cp -a a d; mv d/b/c/x d/y; ls -R a d; ln a/b/c/x hard; ln -s a/b soft; \
               readlink soft; stat -c '%h %s %F' hard soft; rm -r d; chmod 751 hard; stat -c %a hard; touch -d @1000 hard; \
               stat -c %Y hard; cp -r soft/ e; ls e/c; rm -rf a e; ls; rmdir soft 2>&1 | sed 's/.*: //'",
        prints: "a:\nb\n\na/b:\nc\n\na/b/c:\nx\n\nd:\nb\ny\n\nd/b:\nc\n\nd/b/c:\na/b\n2 2 regular file\n1 3 symbolic link\n\
                 751\n1000\nx\nhard\nsoft\nNot a directory\n",
    },
    Script {
        name: "coreutils/text",
        by: BASH,
        text: "printf 'b 2\\na 1\\nc 3\\n' >t; sort t; sort -k2 -rn t | cut -d' ' -f1 | tr -d '\\n'; echo; head -n1 t; tail -n1 t; \
               tail -c3 t; wc t; nl t | head -1; paste -sd, t; uniq -c <<<$'x\\nx\\ny'; rev t | head -1; tac t | head -1; \
               od -An -tx1 -N4 t; echo hello | sha256sum; md5sum </dev/null; base64 <<<shimos; split -l1 t p; ls p*; comm -12 t t | wc -l; \
               join t t | head -1; fold -w2 <<<abcd; expand <<<$'a\\tb'; seq -s+ 5; factor 360; basename /a/b.c .c",
        prints: "a 1\nb 2\nc 3\ncba\nb 2\nc 3\n 3\n 3  6 12 t\n     1\tb 2\nb 2,a 1,c 3\n      2 x\n      1 y\n2 b\nc 3\n 62 20 32 0a\n\
                 5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03  -\nd41d8cd98f00b204e9800998ecf8427e  -\n\
                 c2hpbW9zCg==\npaa\npab\npac\n3\nb 2 2\nab\ncd\na       b\n1+2+3+4+5\n360: 2 2 2 3 3 5\nb\n",
    },
    Script {
        name: "coreutils/system",
        by: BASH,
        text: "id -u >/dev/null && echo id; env -i A=1 env; timeout 0.2 sleep 5; echo $?; timeout 5 true; echo $?; \
               nice -n 0 echo nice; nohup echo nohup 2>/dev/null; df / | wc -l; du -s . >/dev/null && echo du; \
               date -u -d @0 +%F; sleep 0.01; uname -s; nproc >/dev/null && echo nproc; pwd | sed 's/.*abi/abi/' | cut -c1-3; \
               dd if=/dev/zero of=z bs=1000 count=5 2>/dev/null; stat -c %s z; truncate -s 10 z; stat -c %s z; \
               test -e z && echo there; tee a b <<<x >/dev/null; cat a b; mktemp -d tmp.XXXX | wc -c; sync; printenv LC_ALL; \
               stdbuf -o0 echo buffered 2>/dev/null || echo buffered; tty; true; echo $?",
        prints: "id\nA=1\n124\n0\nnice\nnohup\n2\ndu\n1970-01-01\nLinux\nnproc\nabi\n5000\n10\nthere\nx\nx\n9\nC\nbuffered\nnot a tty\n0\n",
    },
    Script {
        name: "coreutils/proc",
        by: BASH,
        text: "head -c5 /proc/version; echo; grep -c ^processor /proc/cpuinfo | grep -q . && echo cpu; head -1 /proc/meminfo | cut -d: -f1; \
               wc -w </proc/loadavg; [ $(readlink /proc/self/fd/0) = /dev/null ] && echo null; ls -l /proc/self/fd | grep -q pipe: && echo pipes; \
               cat /proc/self/comm; tr '\\0' ' ' </proc/self/cmdline; echo; [ /proc/self -ef /proc/$BASHPID ] && echo same; \
               cat /proc/$$/status | grep ^Name; ls /proc/self/task | wc -l; [ -d /proc/$$ ] && echo dir",
        prints: "Linux\ncpu\nMemTotal\n5\nnull\npipes\ncat\ntr \\0   \nsame\nName:\tbash\n1\ndir\n",
    },
    Script {
        name: "busybox/shell",
        by: SH,
        text: "for i in 1 2 3; do echo $i; done | busybox awk '{ s += $1 } END { print s }'; x=$(busybox seq 5 | busybox tail -1); echo $x; \
               busybox cat <<END\nhere $x\nEND\nf() { echo f $1; }; f 1 | busybox cat; (busybox sleep 0.1; echo b) & echo a; wait; \
               trap 'echo t' TERM; kill -TERM $$; busybox sleep 0.05; echo $((1 << 10)); case abc in a*) echo case;; esac; \
               i=0; while [ $i -lt 200 ]; do i=$((i + 1)); busybox true; done; echo $i",
        prints: "6\n5\nhere 5\nf 1\na\nb\nt\n1024\ncase\n200\n",
    },
    Script {
        name: "busybox/tools",
        by: SH,
        text: "B=busybox; $B mkdir -p d/e; echo one >d/x; echo two >d/e/y; $B find d -type f | $B sort; $B grep -r two d; \
               $B tar cf t.tar d; $B rm -r d; $B tar xf t.tar; $B cat d/e/y; $B gzip t.tar; $B gunzip -c t.tar.gz | $B tar tf - | $B wc -l; \
               $B sed -i s/one/three/ d/x; $B cat d/x; $B awk 'BEGIN { for (i = 0; i < 3; i++) printf \"%d,\", i * i; print \"\" }'; \
               echo abc | $B od -c | $B head -1; $B ls -l d/x | $B cut -c1-10; $B xargs echo <<END\na b\nc\nEND\n\
               $B dd if=/dev/zero bs=1k count=8 2>/dev/null | $B wc -c; $B sha256sum d/x | $B cut -c1-8; $B md5sum d/x | $B cut -c1-8; \
               $B cp -a d f; $B diff -r d f && echo same; $B stat -c %s d/x; $B touch -d '2001-01-01 00:00' d/x; $B date -u -r d/x +%Y; \
               $B seq 3 | $B tac | $B tr '\\n' ' '; echo; $B printf '%s-%03d\\n' a 7; $B expr 6 '*' 7; $B bzip2 d/x && $B bunzip2 -c d/x.bz2; \
               $B cpio --help >/dev/null 2>&1; echo $($B basename /a/b); $B du -s f >/dev/null && echo du; $B df >/dev/null && echo df; $B vi --help 2>&1 | $B head -1 | $B cut -c1-7",
        prints: "d/e/y\nd/x\nd/e/y:two\ntwo\n4\nthree\n0,1,4,\n0000000   a   b   c  \\n\n-rw-r--r--\na b c\n8192\nf6936912\nfebe6995\nsame\n6\n2001\n\
                 3 2 1 \na-007\n42\nthree\nb\ndu\ndf\nBusyBox\n",
    },
    Script {
        name: "busybox/network",
        by: SH,
        text: "B=busybox; $B mkdir www; $B seq 20000 >www/numbers; cd www; $B httpd -f -p 127.0.0.1:8099 & h=$!; cd ..; $B sleep 0.3; \
               $B wget -q -O got http://127.0.0.1:8099/numbers; $B cmp got www/numbers && echo same; \
               $B wget -q -O - http://127.0.0.1:8099/none 2>&1 | $B head -1; kill $h; \
               (echo answer | $B nc -l -p 8098 >asked) & $B sleep 0.3; echo question | $B nc 127.0.0.1 8098; wait $!; $B cat asked; \
               $B nc 127.0.0.1 8097 </dev/null 2>&1 | $B sed 's/.*: //'",
        prints: "same\nwget: server returned error: HTTP/1.1 404 Not Found\nanswer\nquestion\nConnection refused\n",
    },
    Script {
        name: "busybox/processes",
        by: SH,
        text: "B=busybox; n=31; $B sleep $n & p=$!; $B ps | $B grep -c '[s]leep 31'; $B top -b -n1 | $B grep -c '[s]leep 31'; \
               $B kill -0 $p && echo alive; $B kill $p; wait $p; echo $?; $B pidof nothing; echo $?; $B free | $B head -2 | $B wc -l; \
               $B uptime | $B grep -c load; $B timeout 1 $B sleep 5; echo $?; echo x | $B time -f done $B cat",
        prints: "1\n1\nalive\n143\n1\n2\n1\nTerminated\n143\nx\ndone\n",
    },
];
