python3 - <<'P'
import signal, subprocess
assert subprocess.check_output(['echo', 'hello']) == b'hello\n'
assert subprocess.run('exit 3', shell=True).returncode == 3
big = bytes(range(256)) * 20000
assert subprocess.run(['cat'], input=big, capture_output=True).stdout == big
p = subprocess.Popen(['sleep', '1000']); p.send_signal(signal.SIGTERM); assert p.wait() == -15
try:
    subprocess.run(['sleep', '1000'], timeout=0.2); raise SystemExit('no time limit')
except subprocess.TimeoutExpired: pass
one = subprocess.Popen(['seq', '1000'], stdout=subprocess.PIPE)
two = subprocess.Popen(['wc', '-l'], stdin=one.stdout, stdout=subprocess.PIPE)
one.stdout.close(); assert two.communicate()[0].strip() == b'1000'
print('pipes, status, signal, time limit')
P
