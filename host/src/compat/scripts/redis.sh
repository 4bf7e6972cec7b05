cat >redis.conf <<C
port 6379
bind 127.0.0.1 -::1
dir $PWD
appendonly yes
appendfsync everysec
save ""
daemonize no
C
redis-server redis.conf >log &
server=$!
for _ in $(seq 100); do redis-cli ping 2>/dev/null | grep -q PONG && break; sleep 0.2; done
redis-benchmark -q -n 2000 -c 20 -t set,get,incr,lpush,lrange_100 >bench
redis-benchmark -q -n 3000 -c 10 -d 1000 -r 1000 -t set >/dev/null &
redis-cli bgsave >/dev/null
redis-cli bgrewriteaof >/dev/null || true
wait $!
redis-cli set key value | grep -qx OK
for _ in $(seq 200); do
    [ "$(redis-cli info persistence | tr -d '\r' | grep -cE '^(rdb_bgsave_in_progress|aof_rewrite_in_progress|aof_rewrite_scheduled):0')" = 3 ] && break; sleep 0.2
done
redis-cli info persistence | tr -d '\r' | grep -qx rdb_last_bgsave_status:ok
redis-cli info persistence | tr -d '\r' | grep -qx aof_last_bgrewrite_status:ok
count=$(redis-cli dbsize)
kill $server && wait $server
redis-server redis.conf >log2 &
for _ in $(seq 100); do redis-cli ping 2>/dev/null | grep -q PONG && break; sleep 0.2; done
[ "$(redis-cli get key)" = value ] && [ "$(redis-cli dbsize)" = "$count" ]
redis-cli shutdown nosave || true
redis-server --version | cut -d' ' -f1-3
