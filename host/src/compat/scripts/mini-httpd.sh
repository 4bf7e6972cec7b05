mkdir www && head -c 3000000 /dev/urandom >www/big && echo small >www/small
mini_httpd -p 8082 -d www -u nobody -i $PWD/pid -l $PWD/log -T utf-8
for _ in $(seq 100); do curl -sf http://127.0.0.1:8082/small >/dev/null && break; sleep 0.2; done
[ "$(curl -sf http://127.0.0.1:8082/small)" = small ] && curl -sf http://127.0.0.1:8082/big | cmp - www/big
ab -q -n 50 -c 5 http://127.0.0.1:8082/small >ab1 && grep -q '^Failed requests: *0' ab1
kill "$(cat pid)"
mini_httpd -V 2>&1 | sed -n 1p
