sleep 1000 &
sleeper=$!
ps -ef | grep -q '[s]leep 1000' && ps aux | grep -q "[s]leep 1000"
[ "$(ps -o comm= -p $sleeper)" = sleep ] && pgrep -x sleep | grep -qx $sleeper
top -b -n 1 | grep -q '^%Cpu' && top -b -n 1 | grep -q sleep
free -b | awk '/^Mem/{exit !($2 > 0 && $3 > 0)}'
vmstat 1 2 | tail -n 1 | awk '{exit NF < 15}'
uptime | grep load >/dev/null
pmap $sleeper | grep -q total
pwdx $sleeper >/dev/null && [ "$(pidof sleep)" = $sleeper ]
ps -eLf >/dev/null && w >/dev/null && ps axjf >/dev/null
sysctl kernel.ostype | grep -q Linux
pkill -x sleep
ps --version
