sed -i 's/worker_processes auto/worker_processes 2/' /etc/nginx/nginx.conf
head -c 5000000 /dev/urandom >/var/www/html/big && echo small >/var/www/html/small
nginx -t 2>/dev/null && nginx
[ "$(curl -sf http://127.0.0.1/small)" = small ] && curl -sf http://localhost/big | cmp - /var/www/html/big
[ "$(pgrep -c -f '^nginx: worker')" = 2 ]
ab -q -k -n 400 -c 10 http://127.0.0.1/small >ab1 && grep -q '^Failed requests: *0' ab1 && grep -q '^Keep-Alive requests: *[1-9]' ab1
ab -q -n 100 -c 10 http://127.0.0.1/small >ab2 && grep -q '^Failed requests: *0' ab2
before=$(pgrep -f '^nginx: worker' | sort | tr '\n' ' ')
echo 'server { listen 8081; return 200 "reloaded\n"; }' >/etc/nginx/conf.d/extra.conf
nginx -s reload
for _ in $(seq 100); do [ "$(curl -s http://127.0.0.1:8081/)" = reloaded ] && break; sleep 0.2; done
[ "$(curl -sf http://127.0.0.1:8081/)" = reloaded ]
for _ in $(seq 100); do [ "$(pgrep -c -f '^nginx: worker process$')" = 2 ] && break; sleep 0.2; done
[ "$(pgrep -f '^nginx: worker process$' | sort | tr '\n' ' ')" != "$before" ]
nginx -s quit
for _ in $(seq 100); do pgrep -x nginx >/dev/null || break; sleep 0.2; done
! pgrep -x nginx
nginx -v 2>&1
