head -c 5000000 /dev/urandom >/var/www/html/big && echo small >/var/www/html/small
lighttpd -f /etc/lighttpd/lighttpd.conf
for _ in $(seq 100); do curl -sf http://127.0.0.1/small >/dev/null && break; sleep 0.2; done
[ "$(curl -sf http://127.0.0.1/small)" = small ] && curl -sf http://127.0.0.1/big | cmp - /var/www/html/big
ab -q -k -n 400 -c 10 http://127.0.0.1/small >ab1 && grep -q '^Failed requests: *0' ab1
[ "$(curl -sf -r 100-199 http://127.0.0.1/big | wc -c)" = 100 ]
kill -INT "$(cat /run/lighttpd.pid)"
for _ in $(seq 100); do pgrep -x lighttpd >/dev/null || break; sleep 0.2; done
! pgrep -x lighttpd
lighttpd -v | sed -n 1p
