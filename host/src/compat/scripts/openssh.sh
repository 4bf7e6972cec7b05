mkdir -p /run/sshd /root/.ssh && chmod 700 /root/.ssh
ssh-keygen -q -A
ssh-keygen -q -t ed25519 -N '' -f id && cp id.pub /root/.ssh/authorized_keys && chmod 600 /root/.ssh/authorized_keys
/usr/sbin/sshd -p 2222 -E $PWD/log
o="-p 2222 -i id -o StrictHostKeyChecking=no -o UserKnownHostsFile=$PWD/known -o LogLevel=ERROR"
for _ in $(seq 100); do ssh $o root@127.0.0.1 true 2>/dev/null && break; sleep 0.3; done
[ "$(ssh $o root@127.0.0.1 'echo $((6 * 7))')" = 42 ]
status=0; ssh $o root@127.0.0.1 'exit 9' || status=$?; [ "$status" = 9 ]
[ "$(ssh -tt $o root@127.0.0.1 tty </dev/null 2>/dev/null | tr -d '\r')" != 'not a tty' ]
head -c 5000000 /dev/urandom >big && ssh $o root@127.0.0.1 cat <big | cmp - big
scp -q ${o/-p/-P} big root@127.0.0.1:/tmp/copied && cmp big /tmp/copied
echo "get /tmp/copied fetched" | sftp -q -b - ${o/-p/-P} root@127.0.0.1 >/dev/null && cmp big fetched
pkill -x sshd
ssh -V 2>&1
