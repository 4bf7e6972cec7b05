# A shell on a pseudo terminal: prompt, line editing, ^C, ^Z, jobs, fg, window size.
python3 - <<'P'
import fcntl, os, pty, re, select, signal, struct, sys, termios, time
pid, fd = pty.fork()
if pid == 0:
    os.environ.update(PS1='ready> ', TERM='xterm', INPUTRC='/dev/null')
    os.execv('/bin/bash', ['bash', '--norc', '--noprofile', '-i'])
seen = b''
def expect(pattern, limit=20):
    global seen
    end = time.monotonic() + limit
    while True:
        found = re.search(pattern, seen)
        if found:
            seen = seen[found.end():]
            return found
        if time.monotonic() > end or not select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
            sys.exit('expected %r, there is %r' % (pattern, seen))
        seen += os.read(fd, 4096)
def say(text):
    os.write(fd, text)
expect(rb'ready> ')
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', 33, 101, 0, 0))
say(b'stty size\r'); expect(rb'33 101\r\n'); expect(rb'ready> ')
say(b'ecxo\x1b[D\x1b[D\x1b[3~h\x05 ed\x7f\x7fedited\r'); expect(rb'[\r\n]edited\r\n'); expect(rb'ready> ')
say(b'\x1b[A\r'); expect(rb'[\r\n]edited\r\n'); expect(rb'ready> ')
say(b'sleep 1000\r'); time.sleep(1); say(b'\x03'); expect(rb'\^C'); expect(rb'ready> ')
say(b'echo status $?\r'); expect(rb'[\r\n]status 130\r\n'); expect(rb'ready> ')
say(b'sleep 1000\r'); time.sleep(1); say(b'\x1a'); expect(rb'Stopped'); expect(rb'ready> ')
say(b'jobs\r'); expect(rb'\[1\]\+\s+Stopped\s+sleep 1000'); expect(rb'ready> ')
say(b'bg\r'); expect(rb'sleep 1000 &'); expect(rb'ready> ')
say(b'fg\r'); expect(rb'sleep 1000\r\n'); time.sleep(1); say(b'\x03'); expect(rb'ready> ')
say(b'jobs; echo none left\r'); expect(rb'[\r\n]none left\r\n'); expect(rb'ready> ')
say(b'cat | cat\r'); time.sleep(1); say(b'typed\r'); expect(rb'typed\r\ntyped\r\n'); say(b'\x04'); expect(rb'ready> ')
say(b'exit 5\r')
while True:
    try:
        if not os.read(fd, 4096): break
    except OSError:
        break
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
print('prompt, editing, history, ^C, ^Z, jobs, bg, fg, ^D, window size')
P
